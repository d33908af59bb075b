/* The C runtime linked into every program: a pool of pinned worker threads, the barrier between stages, and the time
   stamps of the profile. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#define relax() _mm_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("yield")
#else
#define relax() ((void)0)
#endif

#define LINE 64
#define MOST_WORKERS 256
#define SPINS 20000 /* about a quarter of a millisecond: longer than the gap between two tokens */

/* TVM's calling convention, and the one symbol that generated code takes from TVM. */
typedef struct { int32_t type; uint32_t padding; int64_t value; } Argument;
enum { INTEGER = 1, POINTER = 4 };
typedef int Kernel(void *self, const Argument *arguments, int32_t count, Argument *result);
extern Kernel *const intaglio_kernels[];
static _Thread_local char last_error[512];
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  strncpy(last_error, kind, sizeof last_error - 1);
  for (int32_t i = 0; i < count; i++)
    if (parts[i]) strncat(last_error, parts[i], sizeof last_error - strlen(last_error) - 1);
}

typedef struct Pool Pool;
typedef void (*Work)(Pool *, int worker, void *context);
typedef struct { Pool *pool; int worker; } Start;

struct Pool {
  int workers;
  int cpus[MOST_WORKERS]; /* -1: not pinned */
  pthread_t threads[MOST_WORKERS];
  Start starts[MOST_WORKERS];
  Work work;
  void *context;
  int64_t *marks; /* nanoseconds after each stage, or null */
  atomic_int failed;
  char error[512]; /* of the worker that failed first */
  _Alignas(LINE) atomic_uint generation;
  _Alignas(LINE) atomic_int pending;
  _Alignas(LINE) atomic_int sleepers;
  _Alignas(LINE) atomic_int arrived;
  _Alignas(LINE) atomic_uint phase;
  atomic_int stopping;
};

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void pin(int cpu) {
#ifdef __linux__
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#else
  (void)cpu;
#endif
}

static void sleep_until_changed(Pool *pool, unsigned seen) {
#ifdef __linux__
  atomic_fetch_add(&pool->sleepers, 1);
  syscall(SYS_futex, &pool->generation, FUTEX_WAIT_PRIVATE, seen, 0, 0, 0);
  atomic_fetch_sub(&pool->sleepers, 1);
#else
  (void)pool; (void)seen;
  sched_yield();
#endif
}

static void wake(Pool *pool) {
#ifdef __linux__
  if (atomic_load(&pool->sleepers)) syscall(SYS_futex, &pool->generation, FUTEX_WAKE_PRIVATE, MOST_WORKERS, 0, 0, 0);
#else
  (void)pool;
#endif
}

static void *worker_main(void *argument) {
  Start *start = argument;
  Pool *pool = start->pool;
  pin(pool->cpus[start->worker]);
  unsigned seen = 0;
  for (;;) {
    for (long spins = 0; atomic_load_explicit(&pool->generation, memory_order_acquire) == seen;) {
      relax();
      if (++spins > SPINS) sleep_until_changed(pool, seen), spins = 0;
    }
    seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
    if (atomic_load(&pool->stopping)) return 0;
    pool->work(pool, start->worker, pool->context);
    atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_release);
  }
}

static void run_everywhere(Pool *pool, Work work, void *context) {
  pool->work = work;
  pool->context = context;
  atomic_store_explicit(&pool->pending, pool->workers - 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&pool->generation, 1, memory_order_seq_cst);
  wake(pool);
  work(pool, 0, context);
  while (atomic_load_explicit(&pool->pending, memory_order_acquire)) relax();
}

/* Worker 0 is the calling thread; the others are pinned to `cpus[1…]`. */
/* Linux gives a process the tile registers of AMX when it asks for them. Zero if all is well. */
int intaglio_ask_for_registers(void) {
#if defined(__linux__) && defined(__AMX_TILE__)
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
  return (int)syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
#else
  return 0;
#endif
}

Pool *intaglio_pool_create(int workers, const int *cpus) {
  if (workers < 1 || workers > MOST_WORKERS) return 0;
  Pool *pool = aligned_alloc(LINE, (sizeof(Pool) + LINE - 1) / LINE * LINE);
  if (!pool) return 0;
  memset(pool, 0, sizeof *pool);
  pool->workers = workers;
  for (int i = 0; i < workers; i++) pool->cpus[i] = cpus[i];
  for (int i = 1; i < workers; i++) {
    pool->starts[i] = (Start){pool, i};
    if (pthread_create(&pool->threads[i], 0, worker_main, &pool->starts[i])) {
      pool->workers = i; /* stop those that run */
      atomic_store(&pool->stopping, 1);
      atomic_fetch_add(&pool->generation, 1);
      wake(pool);
      for (int j = 1; j < i; j++) pthread_join(pool->threads[j], 0);
      free(pool);
      return 0;
    }
  }
  return pool;
}

void intaglio_pool_destroy(Pool *pool) {
  atomic_store(&pool->stopping, 1);
  atomic_fetch_add_explicit(&pool->generation, 1, memory_order_seq_cst);
  wake(pool);
  for (int i = 1; i < pool->workers; i++) pthread_join(pool->threads[i], 0);
  free(pool);
}

/* A worker that waits long yields: another may have lost its core. */
static void barrier(Pool *pool, int worker, int32_t stage) {
  if (pool->workers > 1) {
    unsigned phase = atomic_load_explicit(&pool->phase, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 == pool->workers) {
      atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
      atomic_fetch_add_explicit(&pool->phase, 1, memory_order_acq_rel);
    } else {
      for (long spins = 0; atomic_load_explicit(&pool->phase, memory_order_acquire) == phase;) {
        relax();
        if (++spins > SPINS) sched_yield();
      }
    }
  }
  if (pool->marks && worker == 0) pool->marks[stage] = now();
}

typedef struct { const int64_t *table; int32_t stages, count, position; } Program;

/* Every worker walks the whole table; the stages separate their own share of the work. A row is kernel, barrier, guard,
   count, pointers: where the guard is the address of a zero, the stage is skipped with its barrier, by all workers alike. */
static void run_program(Pool *pool, int worker, void *context) {
  Program *program = context;
  Argument arguments[] = {
      {INTEGER, 0, worker}, {INTEGER, 0, pool->workers}, {INTEGER, 0, program->count}, {INTEGER, 0, program->position},
      {POINTER, 0, 0},
  };
  Argument result = {0, 0, 0};
  for (int32_t stage = 0; stage < program->stages; stage++) {
    const int64_t *row = program->table + (int64_t)stage * ROW;
    const float *guard = (const float *)(intptr_t)row[2];
    if (guard && *guard == 0.0f) continue;
    arguments[2].value = row[3] ? row[3] : program->count;
    arguments[4].value = (int64_t)(intptr_t)row;
    /* Whatever fails, the barriers are kept, so that nobody waits for ever. */
    if (intaglio_kernels[row[0]](0, arguments, 5, &result) && !atomic_exchange(&pool->failed, 1))
      memcpy(pool->error, last_error, sizeof last_error);
    if (row[1]) barrier(pool, worker, stage);
  }
}

/* Run a stage table. `marks`, if not null, gets the time in nanoseconds at the start and after each stage. */
int intaglio_run(Pool *pool, const int64_t *table, int32_t stages, int32_t count, int32_t position, int64_t *marks) {
  Program program = {table, stages, count, position};
  atomic_store(&pool->failed, 0);
  pool->marks = marks ? marks + 1 : 0;
  if (marks) marks[0] = now();
  run_everywhere(pool, run_program, &program);
  pool->marks = 0;
  return atomic_load(&pool->failed);
}

const char *intaglio_last_error(Pool *pool) { return pool->error; }
