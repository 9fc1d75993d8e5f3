/*
 * codec.c
 *		Byte shuffle + zstd, and the checksum of values.
 *
 * The shuffle groups byte k of all elements (a plane per byte of the element),
 * so exponents stand beside exponents. On trained weights zstd level 1 behind
 * it beats level 19 without it.
 */
#include "base/compat.h"

#include <zstd.h>

#include "math/shuffle.h"
#include "port/pg_crc32c.h"
#include "tensor/tensor.h"

/* Keep raw bytes when compression gains less than 1/50. */
#define WORTH_IT(packed, raw) ((packed) <= (raw) - (raw) / 50)

/* Uninterruptible work on one piece takes at most some hundred milliseconds. */
#define PIECE ((size_t) 1024 * 1024)

static ZSTD_CCtx *compressor;	/* of this backend, reused: creating one costs more than a small value */
static ZSTD_DCtx *decompressor;

/*
 * Compresses in pieces, so that a cancel comes through: high levels take minutes
 * for the largest values. Returns 0 when dst is too small.
 */
static size_t
compress_pieces(const char *src, size_t nbytes, int level, char *dst)
{
	ZSTD_inBuffer in = {src, 0, 0};
	ZSTD_outBuffer out = {dst, nbytes, 0};
	size_t		left;

	/* A cancel may have left the last one unfinished. */
	ZSTD_CCtx_reset(compressor, ZSTD_reset_session_and_parameters);
	ZSTD_CCtx_setParameter(compressor, ZSTD_c_compressionLevel, level);
	ZSTD_CCtx_setPledgedSrcSize(compressor, nbytes);
	do
	{
		CHECK_FOR_INTERRUPTS();
		in.size = Min(in.pos + PIECE, nbytes);
		left = ZSTD_compressStream2(compressor, &out, &in, in.size == nbytes ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left) || out.pos == out.size)
			return 0;
	} while (in.pos < nbytes || left > 0);
	return out.pos;
}

size_t
ga_compress(const char *src, size_t nbytes, int width, int level, char *dst)
{
	size_t		whole = width > 1 ? nbytes / width * width : 0;
	const char *input = src;
	char	   *planes = NULL;
	size_t		packed;

	if (nbytes < 64)
		return 0;
	if (compressor == NULL && (compressor = ZSTD_createCCtx()) == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory in zstd")));

	if (width > 1)
	{
		planes = palloc(nbytes);
		ga_shuffle(src, planes, whole / width, width);
		memcpy(planes + whole, src + whole, nbytes - whole);
		input = planes;
	}
	/* The one error that can come is a full destination: no gain. */
	if (nbytes > PIECE)
		packed = compress_pieces(input, nbytes, level, dst);
	else
		packed = ZSTD_compressCCtx(compressor, dst, nbytes, input, nbytes, level);
	if (planes)
		pfree(planes);
	return ZSTD_isError(packed) || !WORTH_IT(packed, nbytes) ? 0 : packed;
}

bool
ga_decompress(const char *src, size_t srclen, int width, char *dst, size_t nbytes)
{
	size_t		whole = width > 1 ? nbytes / width * width : 0;
	char	   *planes;
	size_t		got;

	if (decompressor == NULL && (decompressor = ZSTD_createDCtx()) == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory in zstd")));
	if (width <= 1)
		return ZSTD_decompressDCtx(decompressor, dst, nbytes, src, srclen) == nbytes;

	planes = palloc(Max(nbytes, 1));
	got = ZSTD_decompressDCtx(decompressor, planes, nbytes, src, srclen);
	if (got == nbytes)
	{
		ga_unshuffle(planes, dst, whole / width, width);
		memcpy(dst + whole, planes + whole, nbytes - whole);
	}
	pfree(planes);
	return got == nbytes;
}

uint32
ga_crc32c(const char *data, size_t nbytes)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, nbytes);
	FIN_CRC32C(crc);
	return crc;
}
