/*
 * gpuknn_validate.c
 *		Checks of operator classes, for amvalidate().
 */
#include "base/compat.h"

#include "access/amvalidate.h"
#include "access/htup_details.h"
#include "catalog/pg_amop.h"
#include "catalog/pg_amproc.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "index/gpuknn.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/* What is wrong goes to INFO, as other access methods do it. */
static bool
complain(const char *family, const char *detail)
{
	ereport(INFO,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("operator family \"%s\" of access method gpuknn %s", family, detail)));
	return false;
}

static bool
valid_operator(const char *family, Form_pg_amop operator)
{
	bool		valid = true;

	if (operator->amopstrategy != GPUKNN_STRATEGY_DISTANCE)
		valid = complain(family, psprintf("contains operator %s with invalid strategy number %d",
										  format_operator(operator->amopopr), operator->amopstrategy));
	if (operator->amoppurpose != AMOP_ORDER)
		valid = complain(family, psprintf("contains operator %s, which is not for ORDER BY", format_operator(operator->amopopr)));
	else if (!opfamily_can_sort_type(operator->amopsortfamily, FLOAT8OID))
		valid = complain(family, psprintf("contains operator %s with an incorrect ORDER BY family",
										  format_operator(operator->amopopr)));
	if (operator->amoplefttype != operator->amoprighttype)
		valid = complain(family, psprintf("contains operator %s of different types", format_operator(operator->amopopr)));
	if (!check_amop_signature(operator->amopopr, FLOAT8OID, operator->amoplefttype, operator->amoprighttype))
		valid = complain(family, psprintf("contains operator %s with wrong signature", format_operator(operator->amopopr)));
	return valid;
}

static bool
valid_procedure(const char *family, Form_pg_amproc procedure)
{
	if (procedure->amprocnum < 1 || procedure->amprocnum > GPUKNN_NPROCS)
		return complain(family, psprintf("contains function %s with invalid support number %d",
										 format_procedure(procedure->amproc), procedure->amprocnum));
	if (procedure->amproclefttype != procedure->amprocrighttype)
		return complain(family, psprintf("contains support function %s of different types",
										 format_procedure(procedure->amproc)));
	if (!check_amproc_signature(procedure->amproc, VOIDOID, true, 1, 1, INTERNALOID))
		return complain(family, psprintf("contains function %s with wrong signature for support number %d",
										 format_procedure(procedure->amproc), procedure->amprocnum));
	return true;
}

/* What one type of the family has: an operator and all support functions. */
static bool
valid_group(const char *family, const OpFamilyOpFuncGroup *group)
{
	bool		valid = true;

	if (group->operatorset != UINT64CONST(1) << GPUKNN_STRATEGY_DISTANCE)
		valid = complain(family, psprintf("has no operator for type %s", format_type_be(group->lefttype)));
	for (int i = 1; i <= GPUKNN_NPROCS; i++)
		if (!(group->functionset & UINT64CONST(1) << i))
			valid = complain(family, psprintf("has no support function %d for type %s", i, format_type_be(group->lefttype)));
	return valid;
}

bool
gpuknn_validate(Oid opclass)
{
	HeapTuple	class_tuple = SearchSysCache1(CLAOID, ObjectIdGetDatum(opclass));
	HeapTuple	family_tuple;
	Form_pg_opclass class;
	CatCList   *operators;
	CatCList   *procedures;
	List	   *groups;
	ListCell   *cell;
	char	   *family;
	bool		found = false;
	bool		valid = true;

	if (!HeapTupleIsValid(class_tuple))
		elog(ERROR, "cache lookup failed for operator class %u", opclass);
	class = (Form_pg_opclass) GETSTRUCT(class_tuple);
	family_tuple = SearchSysCache1(OPFAMILYOID, ObjectIdGetDatum(class->opcfamily));
	if (!HeapTupleIsValid(family_tuple))
		elog(ERROR, "cache lookup failed for operator family %u", class->opcfamily);
	family = NameStr(((Form_pg_opfamily) GETSTRUCT(family_tuple))->opfname);
	operators = SearchSysCacheList1(AMOPSTRATEGY, ObjectIdGetDatum(class->opcfamily));
	procedures = SearchSysCacheList1(AMPROCNUM, ObjectIdGetDatum(class->opcfamily));

	for (int i = 0; i < operators->n_members; i++)
		valid &= valid_operator(family, (Form_pg_amop) GETSTRUCT(&operators->members[i]->tuple));
	for (int i = 0; i < procedures->n_members; i++)
		valid &= valid_procedure(family, (Form_pg_amproc) GETSTRUCT(&procedures->members[i]->tuple));
	groups = identify_opfamily_groups(operators, procedures);
	foreach(cell, groups)
	{
		const OpFamilyOpFuncGroup *group = (const OpFamilyOpFuncGroup *) lfirst(cell);

		if (group->lefttype == class->opcintype && group->righttype == class->opcintype)
			found = true;
		valid &= valid_group(family, group);
	}
	if (!found)
		valid = complain(family, psprintf("has nothing for type %s", format_type_be(class->opcintype)));
	if (OidIsValid(class->opckeytype) && class->opckeytype != class->opcintype)
		valid = complain(family, "stores another type than it indexes");

	ReleaseCatCacheList(procedures);
	ReleaseCatCacheList(operators);
	ReleaseSysCache(family_tuple);
	ReleaseSysCache(class_tuple);
	return valid;
}
