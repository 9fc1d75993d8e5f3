/*
 * binary.c
 *		Wire format, one for the three types (doc/formats.md):
 *
 *		byte 0-1	'G' 'A'
 *		byte 2		version, 1
 *		byte 3		dtype code
 *		byte 4		ndim
 *		byte 5-7	zero
 *		8 * ndim	dims, unsigned little-endian
 *		rest		elements, row-major, little-endian
 *
 * A client builds an array over the payload without a copy; it starts at a
 * multiple of 8. There is no checksum: the connection and the row have theirs.
 */
#include "base/compat.h"

#include "base/memory.h"
#include "libpq/pqformat.h"
#include "tensor/tensor.h"

#ifdef WORDS_BIGENDIAN
#error "gpuagent stores little-endian payloads and does not support big-endian machines"
#endif

#define WIRE_VERSION 1
#define WIRE_HEADER 8

static void
report_wire(const GaKind *kind, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("invalid binary value for type %s", kind->name),
			 errdetail("%s", detail),
			 errhint("See doc/formats.md for the wire format.")));
}

GaTensor *
ga_tensor_recv(const GaKind *kind, StringInfo buf)
{
	uint8		header[WIRE_HEADER];
	int64		dims[GA_MAX_RANK];
	uint64		nelem,
				nbytes;
	char	   *data;
	GaTensor   *tensor;

	if (buf->len - buf->cursor < WIRE_HEADER)
		report_wire(kind, "The header is truncated.");
	memcpy(header, pq_getmsgbytes(buf, WIRE_HEADER), WIRE_HEADER);
	if (header[0] != 'G' || header[1] != 'A')
		report_wire(kind, "The value does not begin with the bytes \"GA\".");
	if (header[2] != WIRE_VERSION)
		report_wire(kind, psprintf("Version %d of the format is not supported.", header[2]));
	if (ga_dtype_info(header[3]) == NULL)
		report_wire(kind, psprintf("Dtype code %d is not defined.", header[3]));
	if (header[4] > GA_MAX_RANK)
		report_wire(kind, psprintf("%d dimensions are more than the maximum of %d.", header[4], GA_MAX_RANK));
	if (header[5] || header[6] || header[7])
		report_wire(kind, "Reserved bytes are not zero.");
	if (buf->len - buf->cursor < 8 * header[4])
		report_wire(kind, "The shape is truncated.");
	for (int i = 0; i < header[4]; i++)
	{
		memcpy(&dims[i], pq_getmsgbytes(buf, 8), 8);
		if (dims[i] < 0)
			report_wire(kind, "A dimension exceeds 63 bits.");
	}
	ga_kind_check(kind, header[3], header[4], dims, &nelem, &nbytes, NULL);
	if ((uint64) (buf->len - buf->cursor) != nbytes)
		report_wire(kind, psprintf("%d bytes of elements follow, the shape asks for " UINT64_FORMAT ".",
								   buf->len - buf->cursor, nbytes));
	tensor = ga_tensor_new(kind, header[3], header[4], dims, &data);
	memcpy(data, pq_getmsgbytes(buf, nbytes), nbytes);
	return ga_tensor_seal(kind, tensor, NULL);
}

bytea *
ga_tensor_send(const GaView *view)
{
	Size		size = VARHDRSZ + WIRE_HEADER + 8 * view->ndim + view->nbytes;
	bytea	   *result = ga_palloc_large(size);
	uint8	   *p = (uint8 *) VARDATA(result);

	SET_VARSIZE(result, size);
	memset(p, 0, WIRE_HEADER);
	p[0] = 'G';
	p[1] = 'A';
	p[2] = WIRE_VERSION;
	p[3] = view->dtype;
	p[4] = view->ndim;
	memcpy(p + WIRE_HEADER, view->dims, 8 * view->ndim);
	memcpy(p + WIRE_HEADER + 8 * view->ndim, view->data, view->nbytes);
	return result;
}
