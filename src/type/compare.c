/*
 * compare.c
 *		Equality, order and hash. embedding compares numerically across its
 *		dtypes (so 0 equals -0); agent_state and swarm_tensor compare dtype, shape
 *		and bits, so that an upsert never loses -0 or a NaN payload.
 */
#include "base/compat.h"

#include "common/hashfn.h"
#include "math/distance.h"
#include "type/type.h"

#define BLOCK 256

/* Shorter is smaller only when it is a prefix, as text compares. */
static int
compare_numeric(const GaView *a, const GaView *b)
{
	uint64		n = Min(a->nelem, b->nelem);
	float		x[BLOCK],
				y[BLOCK];

	for (uint64 i = 0; i < n; i += BLOCK)
	{
		size_t		m = Min(BLOCK, n - i);

		ga_widen_f32(a->dtype, a->data + i * ga_dtype_info(a->dtype)->width, x, m);
		ga_widen_f32(b->dtype, b->data + i * ga_dtype_info(b->dtype)->width, y, m);
		for (size_t j = 0; j < m; j++)
			if (x[j] != y[j])
				return x[j] < y[j] ? -1 : 1;
	}
	return a->nelem < b->nelem ? -1 : a->nelem > b->nelem;
}

static int
compare_bits(const GaView *a, const GaView *b)
{
	int			order;

	if (a->dtype != b->dtype)
		return a->dtype < b->dtype ? -1 : 1;
	if (a->ndim != b->ndim)
		return a->ndim < b->ndim ? -1 : 1;
	for (int i = 0; i < a->ndim; i++)
		if (a->dims[i] != b->dims[i])
			return a->dims[i] < b->dims[i] ? -1 : 1;
	order = memcmp(a->data, b->data, a->nbytes);
	return order < 0 ? -1 : order > 0;
}

static int
compare(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		a,
				b;
	int			order;

	GA_GETARG_VIEW(0, &a);
	GA_GETARG_VIEW(1, &b);
	order = kind->finite ? compare_numeric(&a, &b) : compare_bits(&a, &b);
	/* Comparisons run inside sorts and index builds: leave no detoasted copies behind. */
	ga_view_release(&a);
	ga_view_release(&b);
	return order;
}

#define COMPARISON(name, condition) \
static Datum \
compare_##name(FunctionCallInfo fcinfo, const GaKind *kind) \
{ \
	int			order = compare(fcinfo, kind); \
\
	PG_RETURN_BOOL(condition); \
} \
GA_PER_KIND(name, compare_##name)

COMPARISON(eq, order == 0);
COMPARISON(ne, order != 0);
COMPARISON(lt, order < 0);
COMPARISON(le, order <= 0);
COMPARISON(gt, order > 0);
COMPARISON(ge, order >= 0);

static Datum
compare_cmp(FunctionCallInfo fcinfo, const GaKind *kind)
{
	PG_RETURN_INT32(compare(fcinfo, kind));
}

GA_PER_KIND(cmp, compare_cmp);

/* Hash of what equality looks at. The 32-bit hash is the low half of this one with seed 0, as opclasses ask. */
static uint64
hash_view(const GaView *view, const GaKind *kind, uint64 seed)
{
	uint64		h;

	if (!kind->finite)
	{
		h = hash_bytes_extended((const unsigned char *) view->data, view->nbytes, seed);
		h = hash_combine64(h, view->dtype);
		for (int i = 0; i < view->ndim; i++)
			h = hash_combine64(h, view->dims[i]);
		return h;
	}
	h = seed ^ view->nelem;
	for (uint64 i = 0; i < view->nelem; i += BLOCK)
	{
		float		x[BLOCK];
		size_t		m = Min(BLOCK, view->nelem - i);

		ga_widen_f32(view->dtype, view->data + i * ga_dtype_info(view->dtype)->width, x, m);
		for (size_t j = 0; j < m; j++)
			if (x[j] == 0)
				x[j] = 0;		/* -0 equals 0 */
		h = hash_bytes_extended((const unsigned char *) x, m * sizeof(float), h);
	}
	return h;
}

static Datum
hash_value(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;
	uint64		hash;

	GA_GETARG_VIEW(0, &view);
	hash = hash_view(&view, kind, 0);
	/* The build of a hash index hashes all rows in one memory context. */
	ga_view_release(&view);
	PG_RETURN_INT32((int32) hash);
}

static Datum
hash_value_extended(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;
	uint64		hash;

	GA_GETARG_VIEW(0, &view);
	hash = hash_view(&view, kind, PG_GETARG_INT64(1));
	ga_view_release(&view);
	PG_RETURN_INT64(hash);
}

GA_PER_KIND(hash, hash_value);
GA_PER_KIND(hash_extended, hash_value_extended);
