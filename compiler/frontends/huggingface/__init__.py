"""Folders as Hugging Face writes them: `config.json`, safetensors, tokenizer files. Nothing is downloaded."""
