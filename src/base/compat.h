/*
 * compat.h
 *		The only file that looks at PG_VERSION_NUM. Code uses the newest spelling;
 *		shims here make older servers understand it. Include it right after
 *		postgres.h.
 */
#ifndef GA_COMPAT_H
#define GA_COMPAT_H

#include "postgres.h"
#include "fmgr.h"

#if PG_VERSION_NUM < 150000
#error "gpuagent needs PostgreSQL 15 or newer"
#endif

/* 16 moved the varlena macros out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 16 brought soft errors: an input function may return instead of throwing. */
#if PG_VERSION_NUM >= 160000
#include "nodes/miscnodes.h"
#define GA_ESCONTEXT(fcinfo) ((fcinfo)->context)
#else
#define GA_ESCONTEXT(fcinfo) NULL
#define ereturn(escontext, dummy_value, ...) \
	do { (void) (escontext); ereport(ERROR, __VA_ARGS__); return dummy_value; } while (0)
#define SOFT_ERROR_OCCURRED(escontext) ((void) (escontext), false)
#endif

/* 16 made the callbacks of the JSON parser return a status; 17 lets the caller allocate the lexer. */
#if PG_VERSION_NUM >= 160000
#define GaJsonStatus JsonParseErrorType
#define GA_JSON_DONE return JSON_SUCCESS
#else
#define GaJsonStatus void
#define GA_JSON_DONE return
#endif
#if PG_VERSION_NUM >= 170000
#define ga_json_lexer(json, len, encoding) makeJsonLexContextCstringLen(NULL, (json), (len), (encoding), true)
#else
#define ga_json_lexer(json, len, encoding) makeJsonLexContextCstringLen((char *) (json), (int) (len), (encoding), true)
#endif

/* 18 writes it in front of a declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 18 lets a module carry its name and version. */
#if PG_VERSION_NUM >= 180000
#define GA_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "gpuagent", .version = GA_VERSION)
#else
#define GA_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* 16 renamed the parts of a relation's physical address. */
#if PG_VERSION_NUM >= 160000
#define GaRelLocator RelFileLocator
#define ga_rel_locator(rel) ((rel)->rd_locator)
#define ga_rel_spc(rel) ((rel)->rd_locator.spcOid)
#define ga_rel_db(rel) ((rel)->rd_locator.dbOid)
#define ga_rel_number(rel) ((rel)->rd_locator.relNumber)
#define ga_rel_new_subid(rel) ((rel)->rd_newRelfilelocatorSubid)
#define ga_rel_first_subid(rel) ((rel)->rd_firstRelfilelocatorSubid)
#else
#define GaRelLocator RelFileNode
#define ga_rel_locator(rel) ((rel)->rd_node)
#define ga_rel_spc(rel) ((rel)->rd_node.spcNode)
#define ga_rel_db(rel) ((rel)->rd_node.dbNode)
#define ga_rel_number(rel) ((rel)->rd_node.relNode)
#define ga_rel_new_subid(rel) ((rel)->rd_newRelfilenodeSubid)
#define ga_rel_first_subid(rel) ((rel)->rd_firstRelfilenodeSubid)
#endif

/* 16 made one function of the checks of ownership. */
#if PG_VERSION_NUM >= 160000
#include "catalog/pg_database_d.h"
#define ga_owns_database(oid) object_ownercheck(DatabaseRelationId, (oid), GetUserId())
#else
#define ga_owns_database(oid) pg_database_ownercheck((oid), GetUserId())
#endif

/* 17 gave processes a number of their own, let wait event sets belong to a resource owner, and named wait events. */
#if PG_VERSION_NUM >= 170000
#define ga_process_number() ((int) MyProcNumber)
#define ga_number_of(proc) ((int) GetNumberFromPGProc(proc))
#define ga_wait_event_set(n) CreateWaitEventSet(NULL, (n))
#define ga_wait_event(name) WaitEventExtensionNew(name)
#else
#define ga_process_number() ((int) MyProc->pgprocno)
#define ga_number_of(proc) ((int) (proc)->pgprocno)
#define ga_wait_event_set(n) CreateWaitEventSet(TopMemoryContext, (n))
#define ga_wait_event(name) ((void) (name), PG_WAIT_EXTENSION)
#endif

/* 16 made one function of the checks of object rights. */
#if PG_VERSION_NUM >= 160000
#include "catalog/pg_namespace_d.h"
#include "catalog/pg_proc_d.h"
#define ga_namespace_aclcheck(schema, role, mode) object_aclcheck(NamespaceRelationId, (schema), (role), (mode))
#define ga_function_aclcheck(function, role, mode) object_aclcheck(ProcedureRelationId, (function), (role), (mode))
#else
#define ga_namespace_aclcheck(schema, role, mode) pg_namespace_aclcheck((schema), (role), (mode))
#define ga_function_aclcheck(function, role, mode) pg_proc_aclcheck((function), (role), (mode))
#endif

/* The number of this process's transaction; 17 moved it. */
#if PG_VERSION_NUM >= 170000
#define ga_local_xid() (MyProc->vxid.lxid)
#else
#define ga_local_xid() (MyProc->lxid)
#endif

/* Before 17, old_snapshot_threshold lets vacuum remove what an old snapshot sees; whoever reads an index's page finds out. */
#if PG_VERSION_NUM >= 170000
#define ga_test_old_snapshot(snapshot, rel, page) ((void) 0)
#define ga_old_snapshots_end() false
#else
#define ga_old_snapshots_end() OldSnapshotThresholdActive()
#define ga_test_old_snapshot(snapshot, rel, page) TestForOldSnapshot((snapshot), (rel), (page))
#endif

/* 18 returns the path of a relation's file in a struct. */
#if PG_VERSION_NUM >= 180000
#define ga_relation_path(locator, fork) pstrdup(relpathperm((locator), (fork)).str)
#else
#define ga_relation_path(locator, fork) relpathperm((locator), (fork))
#endif

/* 18 lets an index scan count for EXPLAIN. */
#if PG_VERSION_NUM >= 180000
#define ga_index_beginscan(rel, index, snapshot, nkeys, norderbys) index_beginscan((rel), (index), (snapshot), NULL, (nkeys), (norderbys))
#else
#define ga_index_beginscan(rel, index, snapshot, nkeys, norderbys) index_beginscan((rel), (index), (snapshot), (nkeys), (norderbys))
#endif

/* 18 counts what is disabled apart from costs, and asks vacuum whether it analyzes. */
#if PG_VERSION_NUM >= 180000
#define ga_disable_path(path) ((path)->disabled_nodes = 2)
#define ga_vacuum_delay_point() vacuum_delay_point(false)
#else
#define ga_disable_path(path) ((void) 0)
#define ga_vacuum_delay_point() vacuum_delay_point()
#endif

/* 17 plans the workers of a build for every access method that says it has some. */
#if PG_VERSION_NUM >= 170000
#define ga_am_builds_in_parallel(am) ((am)->amcanbuildparallel = true)
#define ga_build_workers(heap, index, info) ((info)->ii_ParallelWorkers)
#else
#define ga_am_builds_in_parallel(am) ((void) 0)
#define ga_build_workers(heap, index, info) plan_create_index_workers(RelationGetRelid(heap), RelationGetRelid(index))
#endif

/* 18 counts the searches of an index scan for EXPLAIN. */
#if PG_VERSION_NUM >= 180000
#define ga_count_search(scan) do { if ((scan)->instrument) (scan)->instrument->nsearches++; } while (0)
#else
#define ga_count_search(scan) ((void) 0)
#endif

/* Connections of logical replication; 16 asks whether a password is needed, 17 whether it is for replication at all. */
#if PG_VERSION_NUM >= 170000
#define ga_walrcv_connect(conninfo, name, err) walrcv_connect((conninfo), true, true, false, (name), (err))
#elif PG_VERSION_NUM >= 160000
#define ga_walrcv_connect(conninfo, name, err) walrcv_connect((conninfo), true, false, (name), (err))
#else
#define ga_walrcv_connect(conninfo, name, err) walrcv_connect((conninfo), true, (name), (err))
#endif

#endif							/* GA_COMPAT_H */
