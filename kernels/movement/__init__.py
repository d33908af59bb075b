"""Moving elements: permutations, layouts, slices, parts of concatenations, broadcasts, padding."""
