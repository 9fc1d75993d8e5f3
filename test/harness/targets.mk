# targets.mk - the targets that set everything up by themselves; they need bash and make only, so that they work
# before PostgreSQL is installed.  "make all", "make install" and "make installcheck" come from PGXS.
#
#	make test			every suite in its short form
#	make test-long			the same and what takes longer
#	make test-SUITE			one suite: check unit regress isolation pgtap tap python
#	make demo			the main job, with visible progress (KEEP=1 keeps the cluster)
#	make bench			what things cost, against plain PostgreSQL; make bench-quick: fewer repetitions
#					(PARTS="agents swarms" picks some)

.DEFAULT_GOAL := all

HARNESS_SUITES = check unit regress isolation pgtap tap python
HARNESS_GOALS = setup-packages demo bench bench-quick test test-long $(addprefix test-,$(HARNESS_SUITES))

.PHONY: $(HARNESS_GOALS)

setup-packages:
	@bash test/harness/packages.sh

test:
	@bash test/harness/run.sh

test-long:
	@bash test/harness/run.sh --long

$(addprefix test-,$(filter-out long,$(HARNESS_SUITES))): test-%:
	@bash test/harness/run.sh $*

demo:
	@bash demo/run.sh

bench:
	@bash test/bench/run.sh $(PARTS)

bench-quick:
	@bash test/bench/run.sh --quick $(PARTS)
