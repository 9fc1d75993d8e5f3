/*
 * bench_knn.c
 *		Speed of the nearest-neighbour kernels, and what their bounds are worth.
 *
 *		bench_knn [ROWS [DIMENSIONS [CENTRES | FILE]]]: 100000 rows of 768 elements,
 *		Gaussian, or around CENTRES centres, or from a FILE of F32, whose first 64
 *		vectors are the queries. Records lie one behind the other, and a call
 *		gets as many as a page of 8 KB holds. Best of seven scans; one core. GB/s
 *		count the bytes of the records.
 */
#include "unit.h"
#include "math/knn.h"

#include <time.h>

#define PAGE 8160
#define QUERIES 8
#define BATCH 64
#define BLOCK_ROWS 64

static const char *const storage_names[] = {"F32", "F16", "int8"};
static const char *const metric_names[] = {"L2", "IP", "COSINE", "L1"};
static size_t rows = 100000;
static size_t dim = 768;
static size_t centres = 0;

/* Time of the processor, so that other work beside it costs no more than its part of caches and memory. */
static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static void *
allocate(size_t size)
{
	void	   *p;

	if (posix_memalign(&p, 4096, size) != 0)
		exit(1);
	memset(p, 0, size);
	return p;
}

/* The sum of twelve uniform numbers: near enough a Gaussian, and quick. */
static float
gauss(void)
{
	double		sum = -6;

	for (int i = 0; i < 3; i++)
	{
		uint64_t	bits = next_random();

		for (int j = 0; j < 4; j++)
			sum += (double) (bits >> (16 * j) & 0xffff) / 65536;
	}
	return (float) sum;
}

/* count vectors; around centres with a tenth of their spread, unless centres is 0. */
static float *
make_vectors(size_t count, const float *centre)
{
	float	   *data = allocate(count * dim * sizeof(float));

	for (size_t i = 0; i < count; i++)
	{
		const float *at = centre != NULL ? centre + next_random() % centres * dim : NULL;

		for (size_t j = 0; j < dim; j++)
			data[i * dim + j] = at != NULL ? at[j] + 0.1f * gauss() : gauss();
	}
	return data;
}

/* count vectors of a file, from the one of number `first`. */
static float *
read_vectors(const char *name, size_t first, size_t count)
{
	float	   *data = allocate(count * dim * sizeof(float));
	FILE	   *file = fopen(name, "rb");

	if (file == NULL || fseek(file, (long) (first * dim * sizeof(float)), SEEK_SET) != 0 ||
		fread(data, dim * sizeof(float), count, file) != count)
	{
		fprintf(stderr, "%s: cannot read %zu vectors of %zu elements\n", name, count, dim);
		exit(1);
	}
	fclose(file);
	return data;
}

typedef struct Records
{
	char	   *memory;
	size_t		bytes;			/* of a record */
	size_t		per_page;		/* or a little less */
} Records;

static Records
encode(GaMetric metric, GaKnnStorage storage, const float *data)
{
	Records		records;
	double		start;

	records.bytes = ga_knn_record_bytes(storage, dim);
	records.per_page = PAGE / records.bytes > 0 ? PAGE / records.bytes : 1;
	records.memory = allocate(rows * records.bytes);
	start = now();
	for (size_t i = 0; i < rows; i++)
		ga_knn_encode(metric, storage, GA_F32, data + i * dim, dim, (GaKnnRow *) (records.memory + i * records.bytes));
	printf("%-8s %-6s %-4s encoding %8.1f ms\n", "", metric_names[metric], storage_names[storage], (now() - start) * 1e3);
	return records;
}

static void
scan(const Records *records, const GaKnnQuery *query, double threshold, double *bounds)
{
	for (size_t i = 0; i < rows; i += records->per_page)
		ga_knn_bounds(query, records->memory + i * records->bytes, records->bytes,
					  (int) (rows - i < records->per_page ? rows - i : records->per_page), threshold, bounds + i, NULL);
}

static GaKnnQuery *
prepare(GaMetric metric, GaKnnStorage storage, const float *vector)
{
	GaKnnQuery *query = allocate(ga_knn_query_bytes(GA_F32, dim));

	ga_knn_prepare(query, metric, storage, GA_KNN_SUMS_CANONICAL, GA_F32, vector, dim);
	return query;
}

/* The threshold of the k smallest. */
static double
kth_smallest(const double *values, size_t k)
{
	GaKnnPair	memory[100];
	GaKnnTop	top;

	ga_knn_top_init(&top, memory, k, NULL);
	ga_knn_top_push_many(&top, values, NULL, (int) rows, 0);
	return top.threshold;
}

/* How many bounds do not exceed the k-th value, and how far bounds are below values on average. */
static void
measure_worth(const Records *records, GaMetric metric, GaKnnStorage storage, const float *data, const float *queries,
			  double *bounds)
{
	double	   *values = allocate(rows * sizeof(double));
	double		gap = 0;
	double		size = 0;
	size_t		candidates = 0;

	for (size_t q = 0; q < QUERIES; q++)
	{
		GaKnnQuery *query = prepare(metric, storage, queries + q * dim);
		double		kth;

		scan(records, query, NAN, bounds);
		for (size_t i = 0; i < rows; i++)
		{
			values[i] = ga_distance(metric, GA_F32, data + i * dim, GA_F32, queries + q * dim, dim);
			if (metric == GA_METRIC_IP)
				values[i] = 0.0 - values[i];
			gap += values[i] - bounds[i];
			size += fabs(values[i]);
		}
		kth = kth_smallest(values, 10);
		for (size_t i = 0; i < rows; i++)
			candidates += bounds[i] <= kth;
		free(query);
	}
	printf("%-8s %-6s %-4s bounds below values by %.2e of them on average; %.1f rows to look at for 10\n", "",
		   metric_names[metric], storage_names[storage], gap / size, (double) candidates / QUERIES);
	free(values);
}

static void
measure_scan(const char *isa, const Records *records, GaMetric metric, GaKnnStorage storage, const float *vector, double *bounds)
{
	GaKnnQuery *query = prepare(metric, storage, vector);
	double		best = 1e9;
	double		threshold;

	/* As in the middle of a scan that keeps 100. */
	scan(records, query, NAN, bounds);
	threshold = kth_smallest(bounds, 100);
	for (int run = 0; run < 7; run++)
	{
		double		start = now();

		scan(records, query, threshold, bounds);
		start = now() - start;
		best = start < best ? start : best;
	}
	printf("%-8s %-6s %-4s scan %8.2f ms %6.1f GB/s\n", isa, metric_names[metric], storage_names[storage],
		   best * 1e3, (double) (rows * records->bytes) / best / 1e9);
	free(query);
}

/* All rows against BATCH queries, BLOCK_ROWS rows at a time. */
static void
measure_batch(const char *isa, const Records *records, GaMetric metric, GaKnnStorage storage, const float *vectors)
{
	GaKnnQuery *queries[BATCH];
	double	   *bounds = allocate(BATCH * BLOCK_ROWS * sizeof(double));
	double		best = 1e9;

	for (int q = 0; q < BATCH; q++)
		queries[q] = prepare(metric, storage, vectors + (size_t) q * dim);
	for (int run = 0; run < 5; run++)
	{
		double		start = now();

		for (size_t i = 0; i < rows; i += BLOCK_ROWS)
			ga_knn_bounds_batch((const GaKnnQuery *const *) queries, BATCH, records->memory + i * records->bytes,
								records->bytes, rows - i < BLOCK_ROWS ? (int) (rows - i) : BLOCK_ROWS, bounds);
		start = now() - start;
		best = start < best ? start : best;
	}
	printf("%-8s %-6s %-4s %d queries %8.1f ms %6.3f ms a query %6.1f GFLOP/s\n", isa, metric_names[metric],
		   storage_names[storage], BATCH, best * 1e3, best * 1e3 / BATCH,
		   2.0 * BATCH * (double) rows * (double) dim / best / 1e9);
	for (int q = 0; q < BATCH; q++)
		free(queries[q]);
	free(bounds);
}

/* What reading the same bytes takes. */
static void
measure_read(const char *memory, size_t size)
{
	double		best = 1e9;
	volatile uint64_t sink = 0;

	for (int run = 0; run < 7; run++)
	{
		uint64_t	sum[8] = {0};
		double		start = now();

		for (size_t at = 0; at < size; at += sizeof(sum))
			for (int i = 0; i < 8; i++)
			{
				uint64_t	word;

				memcpy(&word, memory + at + 8 * i, sizeof(word));
				sum[i] += word;
			}
		sink += sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
		start = now() - start;
		best = start < best ? start : best;
	}
	printf("%-8s %-6s      read %8.2f ms %6.1f GB/s\n", "", "", best * 1e3, (double) size / best / 1e9);
}

int
main(int argc, char **argv)
{
	static const char *const isas[] = {"portable", "avx2", "avx_vnni", "avx512", "avx512_vnni"};
	const char *file = NULL;
	float	   *centre = NULL;
	float	   *data;
	float	   *queries;
	double	   *bounds;

	if (argc > 1)
		rows = strtoul(argv[1], NULL, 10);
	if (argc > 2)
		dim = strtoul(argv[2], NULL, 10);
	if (argc > 3 && (centres = strtoul(argv[3], NULL, 10)) == 0)
		file = argv[3];
	ga_math_init();
	if (centres > 0)
		centre = make_vectors(centres, NULL);
	data = file != NULL ? read_vectors(file, BATCH, rows) : make_vectors(rows, centre);
	queries = file != NULL ? read_vectors(file, 0, BATCH) : make_vectors(BATCH, centre);
	bounds = allocate(rows * sizeof(double));

	for (int metric = GA_METRIC_L2; metric <= GA_METRIC_L1; metric++)
		for (int storage = GA_KNN_F32; storage <= GA_KNN_INT8; storage++)
		{
			Records		records = encode(metric, storage, data);

			if (metric == GA_METRIC_L2)
				measure_read(records.memory, rows * records.bytes / 64 * 64);
			for (size_t i = 0; i < LENGTH(isas); i++)
			{
				if (!ga_math_force_isa(isas[i]))
					continue;
				measure_scan(isas[i], &records, metric, storage, queries, bounds);
				measure_batch(isas[i], &records, metric, storage, queries);
			}
			ga_math_init();
			if (storage != GA_KNN_F32)
				measure_worth(&records, metric, storage, data, queries, bounds);
			free(records.memory);
		}
	free(data);
	free(queries);
	free(bounds);
	free(centre);
	return 0;
}
