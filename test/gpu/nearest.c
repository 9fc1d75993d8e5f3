/*
 * nearest.c
 *		Nearest rows (ga_backend_knn) in one process, without server and sockets:
 *		every bound against the operator's value and the CPU's bound, every
 *		selection against a sort of all bounds; and their speed.
 *
 *	usage: nearest [--small] [--bench ROWS]
 *
 * Links with CUDA's backend or with the emulator.
 */
#include "programs.h"

#include "math/knn.h"

#define MOST_QUERIES 70

/* ----- a table of rows on the device and here ----- */

typedef struct Table
{
	GaMetric	metric;
	GaKnnStorage storage;
	size_t		dim;
	uint64_t	n;
	uint32_t	stride;
	float	   *vectors;		/* n * dim: the original rows */
	char	   *records;		/* as on the device */
	GaBlock		block;
	float	   *queries;		/* MOST_QUERIES * dim */
} Table;

/* Row i's tid is a number that is in no order of the rows. */
static uint64_t
tid_of(uint64_t i)
{
	return (i * 7919 + 13) % 1000003 << 16 | (i % 200 + 1);
}

static bool
is_dead(uint64_t i)
{
	return i % 37 == 5;
}

static double
gaussian(void)
{
	double		sum = -6;

	for (int i = 0; i < 12; i++)
		sum += (double) (next_random() >> 11) * 0x1p-53;
	return sum;
}

typedef enum Kind
{
	GAUSSIAN, FEW, TINY, HUGE_NORMS, MIXED, KINDS
} Kind;

static const char *const kind_names[] = {"Gaussian", "few values", "denormal", "huge", "of all sizes"};

static float
value_of(Kind kind)
{
	switch (kind)
	{
		case FEW:
			return (float) (next_random() % 3) - 1;
		case TINY:
			return (float) (gaussian() * 0x1p-135);
		case HUGE_NORMS:
			return (float) (gaussian() * 0x1p119);
		case MIXED:
			return (float) ldexp(gaussian(), (int) (next_random() % 200) - 100);
		default:
			return (float) gaussian();
	}
}

static void
write_record(Table *t, uint64_t i)
{
	GaKnnRow   *row = (GaKnnRow *) (t->records + i * t->stride);
	uint64_t	tid = tid_of(i);
	uint16_t	part[3] = {(uint16_t) (tid >> 32), (uint16_t) (tid >> 16), (uint16_t) tid};

	ga_knn_encode(t->metric, t->storage, GA_F32, t->vectors + i * t->dim, t->dim, row);
	memcpy(row->tid, part, sizeof(part));
	if (is_dead(i))
		row->flags |= 1;
}

static void
make_table(Table *t, GaMetric metric, GaKnnStorage storage, size_t dim, uint64_t n, Kind kind)
{
	*t = (Table) {.metric = metric, .storage = storage, .dim = dim, .n = n};
	t->stride = (uint32_t) (ga_knn_record_bytes(storage, dim) + 15) / 16 * 16;
	t->vectors = malloc(n * dim * sizeof(float));
	t->queries = malloc(MOST_QUERIES * dim * sizeof(float));
	t->records = calloc(n, t->stride);
	for (uint64_t i = 0; i < n; i++)
	{
		bool		again = i > 0 && next_random() % 8 == 0;

		/* Some rows are there twice, some are zero. */
		for (size_t j = 0; j < dim; j++)
			t->vectors[i * dim + j] = again ? t->vectors[(i / 2) * dim + j] : i % 101 == 7 ? 0 : value_of(kind);
		write_record(t, i);
	}
	for (size_t j = 0; j < MOST_QUERIES * dim; j++)
		t->queries[j] = j < dim ? t->vectors[j] : value_of(kind);
	t->block = block_of(n * t->stride);
	good(ga_backend_upload(&worker, t->block.address, t->records, n * t->stride));
}

static void
drop_table(Table *t)
{
	ga_backend_free(&worker, &t->block);
	free(t->records);
	free(t->queries);
	free(t->vectors);
}

/* ----- questions ----- */

typedef struct Answers
{
	char	   *prepared[MOST_QUERIES];
	GaKnnDeviceQuery query[MOST_QUERIES];
	GaKnnDevicePair *pairs[MOST_QUERIES];
	uint64_t	counts[MOST_QUERIES];
} Answers;

static void
prepare(const Table *t, int nq, uint32_t limit, Answers *a)
{
	for (int q = 0; q < nq; q++)
	{
		a->prepared[q] = aligned_alloc(64, (ga_knn_query_bytes(GA_F32, t->dim) + 63) / 64 * 64);
		ga_knn_prepare((GaKnnQuery *) a->prepared[q], t->metric, t->storage, GA_KNN_SUMS_CANONICAL, GA_F32,
					   t->queries + (size_t) q * t->dim, t->dim);
		ga_knn_device_query(a->prepared[q], &a->query[q]);
		a->query[q].rows = t->n;
		a->query[q].limit = limit;
		a->pairs[q] = calloc(limit, sizeof(GaKnnDevicePair));
	}
}

static void
release(int nq, Answers *a)
{
	for (int q = 0; q < nq; q++)
	{
		free(a->prepared[q]);
		free(a->pairs[q]);
	}
}

static bool
ask(const Table *t, int nq, Answers *a)
{
	GaKnnPass	pass = {t->block.address, t->stride, nq, a->query, a->counts, a->pairs};

	return good(ga_backend_knn(&worker, &pass));
}

static int
compare(const GaKnnDevicePair *a, const GaKnnDevicePair *b)
{
	GaKnnPair	x = {a->bound, a->tid, 0};
	GaKnnPair	y = {b->bound, b->tid, 0};

	return ga_knn_pair_compare(&x, &y);
}

/* ----- tests ----- */

static double
operator_value(const Table *t, uint64_t row, int q)
{
	double		value = ga_distance(t->metric, GA_F32, t->vectors + row * t->dim, GA_F32, t->queries + (size_t) q * t->dim, t->dim);

	return t->metric == GA_METRIC_IP ? 0.0 - value : value;
}

/* A bound of row i and query q: never above the value, hardly below what the CPU has. */
static bool
check_bound(const Table *t, const Answers *a, int q, uint64_t i, double bound)
{
	const GaKnnRow *row = (const GaKnnRow *) (t->records + i * t->stride);
	double		value = operator_value(t, i, q);
	double		cpu;
	double		scale;

	ga_knn_bounds((const GaKnnQuery *) a->prepared[q], row, t->stride, 1, -HUGE_VAL, &cpu, NULL);
	if (isnan(bound) || isnan(cpu))
		return (isnan(value) && isnan(bound) && isnan(cpu)) || differ("row %lu: bound %g, CPU %g, value %g", i, bound, cpu, value);
	if (!isnan(value) && bound > value)
		return differ("row %lu query %d: bound %.17g above value %.17g", i, q, bound, value);
	scale = t->metric == GA_METRIC_IP ? a->query[q].norm * ((double) row->norm + row->loss) : fabs(cpu);
	if (bound < cpu - 1e-3 * scale - (t->metric == GA_METRIC_COSINE ? 1e-3 : 0) - 0x1p-140 - a->query[q].norm * 0x1p-100)
		return differ("row %lu query %d: bound %.17g far below the CPU's %.17g", i, q, bound, cpu);
	return true;
}

/* All rows, each once, ascending. */
static bool
check_all(const Table *t, const Answers *a, int q)
{
	uint64_t	alive = 0;
	bool	   *seen = calloc(t->n, sizeof(bool));
	bool		fine = true;
	uint64_t   *row_of = calloc(UINT64_C(1000003), sizeof(uint64_t));

	for (uint64_t i = 0; i < t->n; i++)
	{
		alive += !is_dead(i);
		row_of[tid_of(i) >> 16] = i;
	}
	if (a->counts[q] != alive)
		fine = differ("%lu of %lu rows", a->counts[q], alive);
	for (uint64_t k = 0; k < a->counts[q] && fine; k++)
	{
		uint64_t	i = row_of[a->pairs[q][k].tid >> 16 < 1000003 ? a->pairs[q][k].tid >> 16 : 0];

		fine = tid_of(i) == a->pairs[q][k].tid && !is_dead(i) && !seen[i];
		if (!fine)
			differ("pair %lu has tid %lx", k, a->pairs[q][k].tid);
		seen[i] = true;
		fine &= check_bound(t, a, q, i, a->pairs[q][k].bound);
		if (k > 0 && compare(&a->pairs[q][k - 1], &a->pairs[q][k]) >= 0)
			fine = differ("pair %lu of query %d is out of order", k, q);
	}
	free(row_of);
	free(seen);
	return fine;
}

static bool
same(const Answers *all, const Answers *some, int q, uint64_t from, uint64_t limit)
{
	uint64_t	there = all->counts[q] > from ? all->counts[q] - from : 0;

	if (some->counts[q] != (there < limit ? there : limit))
		return differ("%lu pairs from %lu", some->counts[q], from);
	for (uint64_t k = 0; k < some->counts[q]; k++)
		if (compare(&all->pairs[q][from + k], &some->pairs[q][k]) != 0)
			return differ("query %d: pair %lu + %lu is another one", q, from, k);
	return true;
}

/* The first ones, and those after one, are those of all of them. */
static bool
check_parts(const Table *t, const Answers *all, int nq, uint32_t limit)
{
	Answers		part = {0};
	bool		fine = true;

	prepare(t, nq, limit, &part);
	fine &= ask(t, nq, &part);
	for (int q = 0; q < nq; q++)
		fine &= same(all, &part, q, 0, limit);
	for (int q = 0; q < nq; q++)
	{
		uint64_t	from = all->counts[q] / 3;

		if (from == 0)
			continue;
		part.query[q].has_after = 1;
		part.query[q].after_bound = all->pairs[q][from - 1].bound;
		part.query[q].after_tid = all->pairs[q][from - 1].tid;
	}
	fine &= ask(t, nq, &part);
	for (int q = 0; q < nq; q++)
		fine &= same(all, &part, q, all->counts[q] / 3, limit);
	release(nq, &part);
	return fine;
}

/* What a query finds does not depend on those that are asked with it, whatever way the kernels go. */
static bool
check_alone(const Table *t, const Answers *all, int nq, uint32_t limit)
{
	bool		fine = true;

	for (int q = 0; q < nq; q++)
	{
		Answers		alone = {0};
		GaKnnPass	pass = {t->block.address, t->stride, 1, &alone.query[q], &alone.counts[q], &alone.pairs[q]};

		prepare(t, nq, limit, &alone);
		fine &= good(ga_backend_knn(&worker, &pass)) && same(all, &alone, q, 0, limit);
		release(nq, &alone);
	}
	return fine;
}

/* All groups and limits, or (small) some, others each time. */
static bool
check_table(const Table *t, bool small)
{
	static const int groups[] = {1, 2, 3, 5, 9, 20};
	static const uint32_t limits[] = {1, 10, 128, 1500};
	static size_t turn = 0;
	bool		fine = true;

	turn++;
	for (size_t g = 0; g < LENGTH(groups); g++)
	{
		Answers		all = {0};

		if (small && g != turn % LENGTH(groups))
			continue;
		prepare(t, groups[g], GA_KNN_MAX_LIMIT, &all);
		fine &= ask(t, groups[g], &all);
		for (int q = 0; q < groups[g]; q++)
			fine &= check_all(t, &all, q);
		for (size_t l = 0; l < LENGTH(limits); l++)
			if (!small || l == turn / LENGTH(groups) % LENGTH(limits))
				fine &= check_parts(t, &all, groups[g], limits[l]);
		fine &= check_alone(t, &all, groups[g], small ? 10 : GA_KNN_MAX_LIMIT);
		release(groups[g], &all);
	}
	return fine;
}

static void
test_metrics(bool small)
{
	static const char *const metrics[] = {"L2", "inner product", "cosine", "L1"};
	static const char *const storages[] = {"F32", "F16", "int8"};
	static const size_t dims[] = {1, 7, 64, 100, 768, 1536, 4096};
	char		name[128];

	for (int metric = 0; metric < 4; metric++)
		for (int storage = 0; storage < 3; storage++)
			for (int kind = 0; kind < KINDS; kind++)
			{
				bool		fine = true;

				for (size_t d = 0; d < LENGTH(dims); d++)
				{
					Table		t;

					if (small && d != 1 && d != 4)
						continue;
					make_table(&t, (GaMetric) metric, (GaKnnStorage) storage, dims[d], small ? 60 : dims[d] > 1000 ? 150 : 700, (Kind) kind);
					if (!check_table(&t, small))
						fine = differ("%zu dimensions", dims[d]);
					drop_table(&t);
				}
				snprintf(name, sizeof(name), "%s over %s, %s values", metrics[metric], storages[storage], kind_names[kind]);
				result(fine, name);
			}
}

/* Queries that may see nothing, beside others and alone. */
static void
test_no_rows(void)
{
	Answers		a = {0};
	Table		t;
	bool		fine = true;

	make_table(&t, GA_METRIC_L2, GA_KNN_F16, 8, 100, GAUSSIAN);
	prepare(&t, 2, 10, &a);
	for (int alone = 0; alone < 2; alone++)
	{
		a.query[0].rows = 0;
		a.query[1].rows = alone ? 0 : t.n;
		a.counts[0] = a.counts[1] = 99;
		fine &= ask(&t, 2, &a) && a.counts[0] == 0 && a.counts[1] == (alone ? 0 : 10);
	}
	release(2, &a);
	drop_table(&t);
	result(fine, "of no rows, none");
}

static void
test_long_vectors(void)
{
	bool		fine = true;

	for (int storage = 0; storage < 3; storage++)
	{
		Table		t;

		make_table(&t, GA_METRIC_L2, (GaKnnStorage) storage, 65535, 20, GAUSSIAN);
		fine &= check_table(&t, false);
		drop_table(&t);
	}
	result(fine, "65,535 dimensions");
}

/* More rows at one distance, or in one bin, than a selection has room for. */
static void
test_crowds(bool small)
{
	uint64_t	n = small ? 70000 : 300000;
	bool		fine = true;

	for (int metric = 0; metric < 4; metric++)
		for (int kind = 0; kind < 2; kind++)
		{
			Answers		a = {0};
			Answers		next = {0};
			Table		t;
			uint32_t	limit = kind == 0 ? 300 : 7000;

			if (small && (metric + kind) % 2 != 0)
				continue;
			/* Two values and two dimensions: nine distances. The first rows have a far one, which makes the bins wide. */
			make_table(&t, (GaMetric) metric, GA_KNN_F16, 2, n, FEW);
			for (size_t i = 0; kind == 1 && i < 2 * t.dim; i++)
				t.vectors[i] = 30000;
			for (uint64_t i = 0; i < 2; i++)
				write_record(&t, i);
			good(ga_backend_upload(&worker, t.block.address, t.records, n * t.stride));
			prepare(&t, 2, limit, &a);
			prepare(&t, 2, limit, &next);
			fine &= ask(&t, 2, &a);
			for (int q = 0; q < 2; q++)
			{
				GaKnnPair  *memory = malloc(2 * limit * sizeof(*memory));
				GaKnnTop	top;

				/* Of so few distances, bounds are as many; the device's own tell the order, tids among equal ones. */
				ga_knn_top_init(&top, memory, limit, NULL);
				for (uint64_t i = 0; i < n; i++)
					if (!is_dead(i) && tid_of(i) > 0)
					{
						double		bound;

						ga_knn_bounds((const GaKnnQuery *) a.prepared[q], t.records + i * t.stride, t.stride, 1, -HUGE_VAL, &bound, NULL);
						ga_knn_top_push(&top, (float) bound, tid_of(i), false);
					}
				ga_knn_top_sort(&top, top.count, SIZE_MAX);
				for (uint64_t k = 0; k < limit && fine; k++)
					if (memory[k].row != a.pairs[q][k].tid)
						fine = differ("metric %d kind %d: pair %lu is %lx at %.17g, not %lx at %.17g", metric, kind, k,
									  a.pairs[q][k].tid, a.pairs[q][k].bound, (uint64_t) memory[k].row, memory[k].bound);
				next.query[q].has_after = 1;
				next.query[q].after_bound = a.pairs[q][limit / 2 - 1].bound;
				next.query[q].after_tid = a.pairs[q][limit / 2 - 1].tid;
				free(memory);
			}
			fine &= ask(&t, 2, &next);
			for (int q = 0; q < 2; q++)
				for (uint64_t k = 0; k < limit / 2 && fine; k++)
					if (compare(&next.pairs[q][k], &a.pairs[q][limit / 2 + k]) != 0)
						fine = differ("metric %d kind %d: after half of them, pair %lu is another", metric, kind, k);
			release(2, &next);
			release(2, &a);
			drop_table(&t);
		}
	result(fine, "crowds of rows at one distance: the smallest tids of them");
}

/* More rows than a sample has, with a few that are near, in an order that a sample of every so many of them knows little of. */
static void
test_samples(bool small)
{
	static const int groups[] = {2, 9, 33, MOST_QUERIES};
	uint64_t	n = small ? 40000 : 200000;
	bool		fine = true;

	for (int metric = 0; metric < 3; metric++)
		for (size_t g = 0; g < LENGTH(groups); g++)
		{
			size_t		dim = g == 1 ? 130 : 20;
			Answers		a = {0};
			Table		t;

			if (small && (size_t) metric != g)
				continue;
			make_table(&t, (GaMetric) metric, GA_KNN_F16, dim, n, GAUSSIAN);
			for (uint64_t i = 0; i < n; i++)
				if (i / 1000 % 7 == 3 && i % 3 == 0)
				{
					for (size_t j = 0; j < dim; j++)
						t.vectors[i * dim + j] = t.queries[i % (size_t) groups[g] * dim + j] + (float) (gaussian() * 0.1);
					write_record(&t, i);
				}
			good(ga_backend_upload(&worker, t.block.address, t.records, n * t.stride));
			prepare(&t, groups[g], 100, &a);
			for (int q = 0; q < groups[g]; q++)
				a.query[q].rows = n - (uint64_t) q * 17;
			fine &= ask(&t, groups[g], &a);
			for (int q = 0; q < groups[g]; q++)
			{
				Answers		alone = {0};
				GaKnnPass	pass = {t.block.address, t.stride, 1, &alone.query[q], &alone.counts[q], &alone.pairs[q]};

				if (small && q % 8 != 1)
					continue;
				prepare(&t, groups[g], 100, &alone);
				alone.query[q].rows = a.query[q].rows;
				fine &= good(ga_backend_knn(&worker, &pass)) && alone.counts[q] == 100 && same(&alone, &a, q, 0, 100);
				release(groups[g], &alone);
			}
			release(groups[g], &a);
			drop_table(&t);
		}
	result(fine, "many queries of many rows find what each finds alone");
}

/* ----- speed ----- */

static void
bench(uint64_t rows)
{
	static const int groups[] = {1, 2, 4, 8, 9, 16, 32, 64};
	static const uint32_t limits[] = {10, 128, 1000, 16384};
	static const char *const storages[] = {"F32", "F16", "int8"};
	char		what[80];

	for (int storage = 0; storage < 3; storage++)
		for (int metric = 0; metric < 4; metric++)
		{
			Table		t;
			uint64_t	piece = 1000;

			if (storage != 1 && metric != GA_METRIC_L2)
				continue;
			/* A thousand rows again and again, each copy with other elements at some places. */
			make_table(&t, (GaMetric) metric, (GaKnnStorage) storage, 768, piece, GAUSSIAN);
			ga_backend_free(&worker, &t.block);
			t.block = block_of(rows * t.stride);
			for (uint64_t at = 0; at < rows; at += piece)
			{
				for (uint64_t i = 0; i < piece; i++)
				{
					uint8_t    *elements = (uint8_t *) t.records + i * t.stride + 32;
					uint64_t	r = next_random();

					for (int k = 0; k < 4; k++)
						elements[(r >> 8 * k & 0xff) * 2 * (storage == 1 ? 2 : 1)] ^= (uint8_t) (r >> 40);
				}
				good(ga_backend_upload(&worker, t.block.address + at * t.stride, t.records, (rows - at < piece ? rows - at : piece) * t.stride));
			}
			t.n = rows;
			for (size_t g = 0; g < LENGTH(groups); g++)
				for (size_t l = 0; l < LENGTH(limits); l++)
				{
					Answers		a = {0};

					if ((metric != GA_METRIC_L2 || g > 0) && l != 1)
						continue;
					prepare(&t, groups[g], limits[l], &a);
					for (BEST_OF(20))
						ask(&t, groups[g], &a);
					snprintf(what, sizeof(what), "%s metric %d, %d queries, limit %u", storages[storage], metric, groups[g], limits[l]);
					say(what, (double) rows * t.stride);
					release(groups[g], &a);
				}
			t.n = piece;
			drop_table(&t);
		}
}

int
main(int argc, char **argv)
{
	bool		small = false;
	uint64_t	rows = 0;

	for (int i = 1; i < argc; i++)
	{
		if (strcmp(argv[i], "--small") == 0)
			small = true;
		else if (strcmp(argv[i], "--bench") == 0 && i + 1 < argc)
			rows = (uint64_t) atoll(argv[++i]);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);	/* a crash loses nothing */
	ga_fingerprint_init();
	ga_math_init();
	start_backend();
	test_metrics(small);
	test_no_rows();
	if (!small)
		test_long_vectors();
	test_samples(small);
	test_crowds(small);
	if (rows > 0)
		bench(rows);
	return finish();
}
