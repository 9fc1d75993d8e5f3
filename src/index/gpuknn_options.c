/*
 * gpuknn_options.c
 *		CREATE INDEX ... WITH (storage = .., dim = ..).
 */
#include "base/compat.h"

#include "access/reloptions.h"
#include "index/gpuknn.h"
#include "utils/lsyscache.h"

typedef struct Options
{
	int32		vl_len_;
	int			storage;
	int			dim;			/* 0: that of the column */
} Options;

static relopt_kind kind;

static relopt_enum_elt_def storages[] = {
	{"f16", GA_KNN_F16},
	{"f32", GA_KNN_F32},
	{"int8", GA_KNN_INT8},
	{(const char *) NULL}
};

void
ga_gpuknn_init(void)
{
	kind = add_reloption_kind();
	add_enum_reloption(kind, "storage", "What the index keeps of each vector", storages, GA_KNN_F16,
					   "Valid values are \"f16\", \"f32\" and \"int8\".", AccessExclusiveLock);
	add_int_reloption(kind, "dim", "Dimensions of the vectors of a column whose type does not tell", 0, 1, GPUKNN_MAX_DIM,
					  AccessExclusiveLock);
}

bytea *
gpuknn_options(Datum reloptions, bool validate)
{
	static const relopt_parse_elt table[] = {
		{"storage", RELOPT_TYPE_ENUM, offsetof(Options, storage)},
		{"dim", RELOPT_TYPE_INT, offsetof(Options, dim)},
	};

	return (bytea *) build_reloptions(reloptions, validate, kind, sizeof(Options), table, lengthof(table));
}

/* The shape that a new file of the index gets. Options that change later count when it is built anew. */
void
gpuknn_options_shape(Relation index, const GpuknnClass *class, GpuknnShape *shape)
{
	const Options *options = (const Options *) index->rd_options;
	int			declared = class->typmod_dim(TupleDescAttr(RelationGetDescr(index), 0)->atttypmod);
	int			wanted = options != NULL ? options->dim : 0;

	if (declared == 0 && wanted == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("index \"%s\" does not know the dimensions of its vectors", RelationGetRelationName(index)),
				 errdetail("The type of the column or expression does not tell them."),
				 errhint("Give the column a type such as embedding(384), or the index the option: WITH (dim = 384), ALTER INDEX .. SET (dim = 384).")));
	if (declared != 0 && wanted != 0 && declared != wanted)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"dim\" is %d, but the vectors have %d dimensions", wanted, declared),
				 errhint("Leave the option out: the column's type tells.")));
	shape->dim = declared != 0 ? declared : wanted;
	if (shape->dim > GPUKNN_MAX_DIM)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a gpuknn index holds vectors of at most %d dimensions, not %zu", GPUKNN_MAX_DIM, shape->dim)));
	shape->storage = options != NULL ? options->storage : GA_KNN_F16;
	shape->metric = class->metric;
	shape->record_bytes = ga_knn_record_bytes(shape->storage, shape->dim);
}
