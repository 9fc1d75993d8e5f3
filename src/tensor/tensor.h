/*
 * tensor.h
 *		One varlena layout under the types embedding, agent_state and
 *		swarm_tensor, and the only way to read and build such values.
 *
 * Layout (native byte order; version 1):
 *
 *		int32	vl_len_
 *		uint8	version, dtype, ndim, codec
 *		int64	dims[ndim]
 *		GaCheck	check			only for codecs other than GA_CODEC_PLAIN
 *		char	payload[]
 *
 * SQL types have alignment double, so after a FULL detoast (PG_DETOAST_DATUM;
 * never the packed macro, because short values get 1-byte headers) the payload
 * is aligned to 8 bytes.
 *
 * embedding and agent_state are stored plain; swarm_tensor carries a checksum
 * of its raw bytes, which every reader verifies, and may be compressed.
 */
#ifndef GA_TENSOR_H
#define GA_TENSOR_H

#include "base/compat.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodes.h"
#include "math/dtype.h"

#define GA_TENSOR_VERSION 1

typedef enum GaCodec
{
	GA_CODEC_PLAIN = 0,			/* payload is the raw bytes */
	GA_CODEC_CHECKED = 1,		/* raw bytes behind a GaCheck */
	GA_CODEC_ZSTD = 2			/* byte-shuffled and zstd-compressed behind a GaCheck */
} GaCodec;

typedef struct GaTensor
{
	int32		vl_len_;		/* varlena header, never touched directly */
	uint8		version;
	uint8		dtype;			/* GaDtype */
	uint8		ndim;
	uint8		codec;			/* GaCodec */
	int64		dims[FLEXIBLE_ARRAY_MEMBER];
} GaTensor;

typedef struct GaCheck
{
	uint64		nbytes;			/* raw bytes */
	uint32		crc;			/* CRC-32C of the raw bytes */
	uint32		reserved;		/* zero */
} GaCheck;

/* What one SQL type allows. */
typedef struct GaKind
{
	const char *name;
	int			min_rank;
	int			max_rank;
	int64		max_dim;		/* of each dimension; 0: no limit of its own */
	uint64		max_bytes;		/* raw bytes of a value */
	bool		finite;			/* refuse NaN and infinities */
	bool		floats_only;	/* only F32, F16, BF16 */
	bool		checked;		/* carries a GaCheck */
} GaKind;

extern const GaKind ga_kind_embedding;
extern const GaKind ga_kind_agent_state;
extern const GaKind ga_kind_swarm_tensor;

/* A decoded value: raw elements in memory, aligned to 8 bytes. */
typedef struct GaView
{
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];
	uint64		nelem;
	uint64		nbytes;
	const char *data;
	void	   *owned[2];		/* copies that ga_view made; NULL where it made none */
} GaView;

/* ---- layout.c ---- */

/*
 * Detoasts, checks and decodes a value. Pointers lead into the datum or into
 * the current memory context. ERROR XX001 when the stored bytes are damaged.
 */
extern void ga_view(Datum value, GaView *view);

/*
 * The header alone: shape and dtype, data NULL. Of a toasted value only the
 * beginning is read, and no checksum is verified. Nothing to release.
 */
extern void ga_view_header(Datum value, GaView *view);

/* Frees what ga_view allocated. Only needed where many values pass through one context (comparisons, aggregates). */
extern void ga_view_release(GaView *view);

/* True when the shape fits the kind; else reports into escontext (or throws) and returns false. */
extern bool ga_kind_check(const GaKind *kind, int dtype, int ndim, const int64 *dims,
						  uint64 *nelem, uint64 *nbytes, Node *escontext);

/*
 * A new value with room for its raw elements at *data (not initialised); checks
 * the shape against the kind before it allocates. ga_tensor_seal() must follow
 * once the elements are written.
 */
extern GaTensor *ga_tensor_new(const GaKind *kind, int dtype, int ndim, const int64 *dims, char **data);

/*
 * Gives an unsealed value another number of rows (dimension 0), moving it when
 * it must grow; the rows that stay keep their bytes. Checks as ga_tensor_new.
 */
extern GaTensor *ga_tensor_set_rows(const GaKind *kind, GaTensor *tensor, int64 rows, char **data);

/*
 * Finishes a value made by ga_tensor_new: the finiteness rule of the kind
 * (22003) and the checksum. Soft errors go to escontext; then NULL comes back.
 */
extern GaTensor *ga_tensor_seal(const GaKind *kind, GaTensor *tensor, Node *escontext);

/* A sealed copy of a view. */
extern GaTensor *ga_tensor_from_view(const GaKind *kind, const GaView *view);

/* Copy of a sealed value with its payload compressed; the value itself when that gains under 2 %. */
extern GaTensor *ga_tensor_compress(GaTensor *tensor, int level);

/* "[2,3]" for messages and text, in the current memory context. */
extern char *ga_shape_text(int ndim, const int64 *dims);

/* Parameters that are shapes (bigint[]), 22023 on bad input. */
extern int	ga_shape_from_array(Datum array, int64 *dims);
extern Datum ga_shape_to_array(int ndim, const int64 *dims);

/* Throws 22023 for an unknown dtype name. */
extern int	ga_dtype_from_text(const char *name, size_t len);

/* Throws 0A000 unless the dtype is F64, F32, F16 or BF16. */
extern void ga_require_float(int dtype, const char *what);

/* In loops over the elements of a value: lets a cancel through every 2^20 of them. */
#define GA_CHECK_INTERRUPTS(i) \
	do { if (((i) & 0xFFFFF) == 0xFFFFF) CHECK_FOR_INTERRUPTS(); } while (0)

#define ga_dtype_name(dtype) (ga_dtype_info(dtype)->name)
#define GA_GETARG_VIEW(n, view) ga_view(PG_GETARG_DATUM(n), (view))
#define GA_RETURN(kind, tensor) PG_RETURN_POINTER(ga_tensor_seal((kind), (tensor), NULL))

/* ---- codec.c: byte shuffle + zstd, shared with the chunk store ---- */

/*
 * Compresses src (element stride `width` bytes; 1 = no shuffle) into dst, which
 * holds at least nbytes. Returns the compressed size, or 0 when the gain would
 * be under 2 % and the caller should keep the raw bytes.
 */
extern size_t ga_compress(const char *src, size_t nbytes, int width, int level, char *dst);

/* Inverse; false when the frame is damaged or does not give exactly nbytes. Never reads or writes out of bounds. */
extern bool ga_decompress(const char *src, size_t srclen, int width, char *dst, size_t nbytes);

extern uint32 ga_crc32c(const char *data, size_t nbytes);

/* ---- convert.c ---- */

/*
 * Converts n elements between any two non-opaque dtypes. A value that does not
 * fit the target (finite -> infinite, out of an integer's range, NaN to an
 * integer, a fraction to an integer) reports 22003. False after a soft error.
 */
extern bool ga_convert(int from, const char *src, int to, char *dst, uint64 n, Node *escontext);

/* The value with another dtype, as another kind. */
extern GaTensor *ga_tensor_astype(const GaKind *kind, const GaView *view, int dtype);

/* ---- text.c and print.c ---- */
extern GaTensor *ga_tensor_parse(const GaKind *kind, const char *text, int32 typmod, Node *escontext);
extern char *ga_tensor_print(const GaKind *kind, const GaView *view);

/* ---- binary.c: the wire format, doc/formats.md ---- */
extern GaTensor *ga_tensor_recv(const GaKind *kind, StringInfo buf);
extern bytea *ga_tensor_send(const GaView *view);

/* ---- typmods (type/io.c) ---- */
/* embedding: dim in bits 0-16, dtype above; the others: dtype. 0 or less = unconstrained. */
#define GA_TYPMOD_DIM(typmod) ((typmod) & 0x1FFFF)

/* dtype of a typmod, 0 when unconstrained. Anybody can call typmod functions with any number: 22023 for one that is none. */
extern int	ga_typmod_dtype(int32 typmod);

#endif							/* GA_TENSOR_H */
