# gpuagent: PGXS build. `make demo` and `make test` do all the set-up by themselves (README.md).
EXTENSION = gpuagent
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" gpuagent.control)
MODULE_big = gpuagent

OBJS = \
	src/gpuagent.o \
	src/base/guc.o src/base/names.o \
	src/math/dtype.o src/math/distance.o src/math/distance_avx2.o src/math/distance_avx512.o \
	src/tensor/layout.o src/tensor/codec.o src/tensor/text.o src/tensor/binary.o src/tensor/convert.o \
	src/type/io.o src/type/cast.o src/type/math.o src/type/compare.o src/type/aggregate.o src/type/access.o src/type/version.o

# The install script is its sections in reading order; the setup steps are embedded as an SQL function.
SQL_PARTS := $(sort $(wildcard sql/part/*.sql))
SETUP_STEPS := $(sort $(wildcard sql/setup/*.sql))
EXTENSION_SCRIPT = sql/$(EXTENSION)--$(EXTVERSION).sql
DATA_built = $(EXTENSION_SCRIPT)
EXTRA_CLEAN = $(EXTENSION_SCRIPT) $(wildcard src/*/*.d src/*.d)

PG_CPPFLAGS = -I$(srcdir)/src -DGA_VERSION='"$(EXTVERSION)"' -MMD -MP
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare -ffp-contract=off $(if $(WERROR),-Werror)
SHLIB_LINK = -lzstd

# Bitcode would let the server's JIT inline our functions; the kernels are reached through pointers, so nothing gains.
override with_llvm = no

# For "make installcheck" on a running server that has the extension installed.
REGRESS = $(shell sed -n 's/^test: *//p' test/schedule)
REGRESS_OPTS = --inputdir=test --load-extension=$(EXTENSION)
ISOLATION = $(shell sed -n 's/^test: *//p' test/isolation_schedule)
ISOLATION_OPTS = --inputdir=test --outputdir=. --load-extension=$(EXTENSION)

# The targets that set everything up work before PostgreSQL is there, so without PGXS.
include test/harness/targets.mk
ifneq ($(filter-out $(HARNESS_GOALS),$(or $(MAKECMDGOALS),all)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
endif

$(EXTENSION_SCRIPT): $(SQL_PARTS) $(SETUP_STEPS) sql/assemble.sh gpuagent.control
	bash sql/assemble.sh > $@.tmp && mv $@.tmp $@

-include $(wildcard src/*/*.d src/*.d)
