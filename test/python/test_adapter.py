"""The psycopg adapter: values equal NumPy's, bit for bit, on every path in and out of the server."""

import struct
import sys
import types
import unittest
import warnings
from unittest import mock

import numpy as np
import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format

import gpuagent
from gpuagent import Tensor, register

try:
    import torch
except ImportError:
    torch = None

NATIVE = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8"]
RAW = ["BF16", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]
SHAPES = [(), (1,), (7,), (0,), (2, 3), (0, 3), (2, 0, 4), (3, 1, 2, 5), (1, 1, 1, 1, 1, 1, 1, 2)]


def bits(value):
    """What makes two results equal: dtype, shape, bytes."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.data.tobytes()
    return value.dtype.newbyteorder("<").str, value.shape, value.astype(value.dtype.newbyteorder("<")).tobytes()


def sample(dtype, shape, seed=1):
    """Random bits as elements, so that extremes, -0 and NaN payloads occur."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=int))
    rng = np.random.default_rng(seed)
    if dtype == bool:
        return rng.integers(0, 2, count).astype(bool).reshape(shape)
    return np.frombuffer(rng.bytes(count * dtype.itemsize), dtype).reshape(shape)


class AdapterTest(unittest.TestCase):
    def connect(self, **options):
        conn = psycopg.connect(autocommit=True, **options)
        self.addCleanup(conn.close)
        return conn

    def setUp(self):
        self.conn = self.connect()
        register(self.conn)
        gpuagent._warned_about_text = True

    def same(self, got, expected, note=None):
        self.assertEqual(bits(got), bits(expected), note)

    def round_trip(self, value, type="agent_state", conn=None, **options):
        query = sql.SQL("SELECT %s::gpuagent.{}").format(sql.Identifier(type))
        return (conn or self.conn).execute(query, [value], **options).fetchone()[0]


class RoundTrip(AdapterTest):
    def test_every_dtype_and_shape(self):
        for type in ("agent_state", "swarm_tensor"):
            for compression in ("off", "on") if zstd_readable() else ("off",):
                self.conn.execute(f"SET gpuagent.compression = {compression}")
                for dtype in NATIVE:
                    for shape in SHAPES:
                        array = sample(dtype, shape)
                        for binary in (True, False):
                            got = self.round_trip(array, type, binary=binary)
                            self.assertIsInstance(got, np.ndarray)
                            self.same(got, array, (type, dtype, shape, binary, compression))

    def test_dtypes_that_numpy_lacks(self):
        self.conn.execute("SET gpuagent.compression = off")
        for name in RAW:
            for shape in SHAPES:
                tensor = Tensor(sample("u2" if name == "BF16" else "u1", shape), name)
                for binary in (True, False):
                    got = self.round_trip(tensor, binary=binary)
                    self.assertIsInstance(got, Tensor)
                    self.assertEqual(got, tensor, (name, shape, binary))
        for name, shape, nbytes in (("F4", (3, 4), 6), ("F6_E2M3", (8,), 6), ("F6_E3M2", (2, 4), 6), ("F4", (0, 2), 0)):
            tensor = Tensor(sample("u1", (nbytes,)), name, shape)
            for binary in (True, False):
                got = self.round_trip(tensor, "swarm_tensor", binary=binary)
                self.assertEqual((got.dtype, got.shape, bytes(got.data)), (name, shape, bytes(tensor.data)))

    def test_nested_text(self):
        rng = np.random.default_rng(2)
        floats = rng.standard_normal(1000).astype("f4") * np.float32(10) ** rng.integers(-40, 38, 1000).astype("f4")
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, 16777216, 7.038531e-26, 1e-45, 3.4028235e38], "f4")
        for array in (
            floats,
            special,
            special.reshape(5, 1, 2),
            np.array(-0.0, "f4"),
            np.array([0, -0.0, np.nan, np.inf, 65504, 6e-8], "f2"),
            np.array([1e308, 5e-324, -0.0, 0.1, np.nan]),
            np.array([[True, False]]),
            np.array([[-128, 127]], "i1"),
            np.array([2**64 - 1, 0], "u8"),
            np.array([-(2**63), 2**63 - 1], "i8"),
            np.array(-5, "i2"),
        ):
            text = self.conn.execute("SELECT %s::gpuagent.agent_state::text", [array]).fetchone()[0]
            self.assertNotIn(":raw:", text)
            self.same(self.round_trip(array), array, text)
        half = (np.arange(2**16, dtype="u2")).view("f2")
        half = half[~np.isnan(half)]
        self.same(self.round_trip(half), half)
        brain = np.arange(2**16, dtype="u2")
        brain = Tensor(brain[(brain & 0x7FFF) <= 0x7F80], "BF16")
        self.assertEqual(self.round_trip(brain), brain)

    def test_float32_that_rounds_through_the_middle(self):
        # The float64 nearest to each text lies in the middle of two float32; the text does not.
        for text, expected in (("7.038531e-26", 0x15AE43FD), ("-7.038531e-26", 0x95AE43FD)):
            got = gpuagent._from_text(text.encode())
            self.assertEqual(int(got.view("u4")), expected)
            self.assertEqual(int(gpuagent._from_text(b"[[0.5,%s]]" % text.encode()).view("u4")[0, 1]), expected)
            server = self.conn.execute("SELECT %s::text::gpuagent.agent_state", [text], binary=True).fetchone()[0]
            self.assertEqual(int(server.view("u4")), expected)

    def test_bfloat16_text_rounds_once(self):
        # 1 + 2^-8 is the middle of two BF16; float32 cannot tell the other texts from it.
        for text, expected in (("1.00390625", 0x3F80), ("1.003906250000001", 0x3F81), ("1.01171874999999", 0x3F81)):
            for sign, bit in (("", 0), ("-", 0x8000)):
                literal = f"BF16:{sign}{text}"
                self.assertEqual(int(gpuagent._from_text(literal.encode()).data), expected | bit, literal)
                server = self.conn.execute("SELECT %s::text::gpuagent.agent_state", [literal], binary=True)
                self.assertEqual(int(server.fetchone()[0].data), expected | bit, literal)

    def test_layouts(self):
        base = np.arange(24, dtype="f4").reshape(2, 3, 4)
        for array in (
            base.T,
            base[:, ::2, 1:],
            base[::-1],
            np.asfortranarray(base),
            base.astype(">f4"),
            base.astype(">f4")[..., ::2],
            np.broadcast_to(np.float32(3), (4, 5)),
            np.array(7, ">i8"),
            base[1:1],
        ):
            self.same(self.round_trip(array, binary=True), array)
        readonly = base.copy()
        readonly.flags.writeable = False
        self.same(self.round_trip(readonly, binary=True), base)
        unaligned = np.ndarray((24,), "f4", b"x" + base.tobytes(), 1)
        self.same(self.round_trip(unaligned, binary=True), base.reshape(-1))

    def test_subclasses(self):
        class Mine(np.ndarray):
            pass

        array = np.arange(3, dtype="f4")
        self.same(self.round_trip(array.view(Mine), binary=True), array)
        with self.assertRaisesRegex(psycopg.DataError, "masked"):
            self.round_trip(np.ma.masked_array(array, [0, 1, 0]))

    def test_results_are_read_only_views(self):
        array = np.arange(1000, dtype="f8")
        got = self.round_trip(array, "swarm_tensor", binary=True)
        self.assertFalse(got.flags.writeable)
        self.assertFalse(got.flags.owndata)
        self.assertTrue(got.flags.aligned)
        self.assertTrue(got.copy().flags.writeable)
        with self.assertRaises(ValueError):
            got[0] = 1
        self.assertFalse(self.round_trip(array).flags.writeable)

    def test_results_outlive_their_connection(self):
        conn = self.connect()
        register(conn)
        array = np.arange(100000, dtype="i4")
        got = self.round_trip(array, "swarm_tensor", conn, binary=True)
        conn.close()
        self.same(got, array)

    def test_null(self):
        for binary in (True, False):
            self.assertIsNone(self.round_trip(None, binary=binary))

    def test_dtypes_without_a_tensor_form(self):
        for dtype in ("c16", "O", "M8[s]", "U3", "f4,i4"):
            array = np.zeros(2, dtype)
            with self.assertRaisesRegex(psycopg.DataError, "astype"):
                self.round_trip(array)

    def test_server_says_what_a_type_refuses(self):
        with self.assertRaises(psycopg.errors.InvalidParameterValue):
            self.round_trip(np.zeros(3), "embedding")
        with self.assertRaises(psycopg.errors.NumericValueOutOfRange):
            self.round_trip(np.array([np.nan], "f4"), "embedding")
        with self.assertRaises(psycopg.DataError):
            self.round_trip(np.zeros((2, 2), "f4"), "embedding")


class Paths(AdapterTest):
    """The ways into a statement."""

    def setUp(self):
        super().setUp()
        self.conn.execute(
            "CREATE TEMP TABLE adapter_t (id bigint, e gpuagent.embedding, a gpuagent.agent_state,"
            " s gpuagent.swarm_tensor, l gpuagent.agent_state[])"
        )

    def rows(self, n=5):
        return [
            (i, sample("i2", (4,), i).astype("f4"), sample("f4", (3, i), i), sample("u8", (i,), i)) for i in range(n)
        ]

    def check(self, conn, rows):
        for binary in (True, False):
            got = conn.execute("SELECT id, e, a, s FROM adapter_t ORDER BY id", binary=binary).fetchall()
            self.assertEqual([r[0] for r in got], [r[0] for r in rows])
            for g, r in zip(got, rows):
                for x, y in zip(g[1:], r[1:]):
                    self.same(x, y)

    def test_insert(self):
        self.conn.execute("SET gpuagent.compression = off")
        rows = self.rows()
        with self.conn.cursor() as cur:
            cur.executemany("INSERT INTO adapter_t VALUES (%s, %s, %s, %s)", rows)
        self.check(self.conn, rows)
        self.conn.execute("TRUNCATE adapter_t")
        for row in rows:
            self.conn.execute("INSERT INTO adapter_t VALUES (%s, %b, %t, %s)", row)
        self.check(self.conn, rows)

    def test_function_calls_and_operators(self):
        a, b = np.array([1, 2, 3], "f4"), np.array([4, 6, 3], "f4")

        def one(query, *params):
            return self.conn.execute(query, params).fetchone()[0]

        self.assertEqual(one("SELECT gpuagent.l2_distance(%s::gpuagent.embedding, %s)", a, b), 5.0)
        self.conn.execute("INSERT INTO adapter_t (id, e) VALUES (1, %s), (2, %s)", [a, b])
        self.assertEqual(one("SELECT id FROM adapter_t ORDER BY e OPERATOR(gpuagent.<->) %s LIMIT 1", b), 2)
        self.assertEqual(one("SELECT count(*) FROM adapter_t WHERE e OPERATOR(gpuagent.=) %s", a), 1)
        self.conn.execute("UPDATE adapter_t SET a = %s WHERE id = 1", [np.array(7, "i1")])
        self.same(one("SELECT a FROM adapter_t WHERE id = 1"), np.array(7, "i1"))
        self.assertEqual(one("SELECT gpuagent.shape(%s::gpuagent.swarm_tensor)", np.zeros((2, 0, 3))), [2, 0, 3])

    def test_a_population(self):
        ids = [f"python-adapter/{i:04}" for i in range(1000)]
        states, memories = sample("i4", (1000, 16)).astype("f4"), sample("i1", (1000, 2, 4), 2).astype("f2")
        fitness = np.random.default_rng(3).random(1000)
        with self.conn.transaction(force_rollback=True):
            cur = self.conn.cursor(binary=True).execute(
                "SELECT gpuagent.store_agents(%s, %s, %s, generation => %s, fitness => %s)",
                [ids, states, memories, 7, fitness.tolist()],
            )
            self.assertEqual(cur.fetchone()[0], 1000)
            cur.execute(
                "SELECT ids, states, memories, fitness FROM gpuagent.retrieve_population(prefix => 'python-adapter/')"
            )
            got = cur.fetchone()
            order = [ids.index(i) for i in got[0]]
            self.same(got[1], states[order])
            self.same(got[2], memories[order])
            self.assertEqual(got[3], fitness[order].tolist())
            cur.execute("SELECT state, memory FROM gpuagent.retrieve_agent(%s)", [ids[5]])
            got = cur.fetchone()
            self.same(got[0], states[5])
            self.same(got[1], memories[5])

    def test_prepared(self):
        for i in range(10):
            array = sample("f4", (i,), i)
            got = self.conn.execute("SELECT %s::gpuagent.agent_state", [array], prepare=True, binary=True).fetchone()[0]
            self.same(got, array)

    def test_copy_binary(self):
        rows = self.rows()
        for types in (None, ["bigint", "gpuagent.embedding", "gpuagent.agent_state", "gpuagent.swarm_tensor"]):
            self.conn.execute("TRUNCATE adapter_t")
            with self.conn.cursor() as cur:
                with cur.copy("COPY adapter_t (id, e, a, s) FROM STDIN (FORMAT binary)") as cp:
                    if types:
                        cp.set_types(types)
                    for row in rows:
                        cp.write_row(row if types else (psycopg.types.numeric.Int8(row[0]), *row[1:]))
            self.conn.execute("SET gpuagent.compression = off")
            self.check(self.conn, rows)
        with self.conn.cursor() as cur, cur.copy("COPY adapter_t (id, e, a, s) TO STDOUT (FORMAT binary)") as cp:
            cp.set_types(types)
            got = list(cp.rows())
        for g, r in zip(got, rows, strict=True):
            for x, y in zip(g[1:], r[1:]):
                self.same(x, y)
                self.assertTrue(x.flags.aligned)

    def test_copy_nulls_and_text(self):
        with self.conn.cursor() as cur:
            with cur.copy("COPY adapter_t (id, e) FROM STDIN (FORMAT binary)") as cp:
                cp.set_types(["int8", "embedding"])
                cp.write_row((1, None))
                cp.write_row((2, Tensor(np.ones(3, "f4"))))
            with cur.copy("COPY adapter_t (id, a, l) FROM STDIN") as cp:
                cp.write_row((3, np.arange(3), [np.ones(2, "f2"), None]))
            got = cur.execute("SELECT e, a, l FROM adapter_t ORDER BY id").fetchall()
        self.assertEqual(got[0], (None, None, None))
        self.same(got[1][0], np.ones(3, "f4"))
        self.same(got[2][1], np.arange(3))
        self.same(got[2][2][0], np.ones(2, "f2"))
        self.assertIsNone(got[2][2][1])

    def test_lists(self):
        arrays = [sample("f4", (2,), 1), sample("i8", (3, 1), 2), None, np.zeros((0, 2)), np.array(5)]
        typed = [a if a is None else Tensor(a, type="agent_state") for a in arrays]
        queries = [
            ("SELECT %s::gpuagent.agent_state[]", arrays),
            ("SELECT %b::gpuagent.agent_state[]", typed),
            ("SELECT %s", typed),
        ]
        for query, values in queries:
            for binary in (True, False):
                got = self.conn.execute(query, [values], binary=binary).fetchone()[0]
                self.assertEqual(len(got), len(arrays))
                for g, a in zip(got, arrays):
                    if a is None:
                        self.assertIsNone(g)
                    else:
                        self.same(g, a, (query, binary))
                        self.assertTrue(g.flags.aligned)
        self.conn.execute("INSERT INTO adapter_t (id, l) VALUES (1, %s), (2, %s), (3, %s)", [arrays, [], None])
        got = self.conn.execute("SELECT l FROM adapter_t ORDER BY id", binary=True).fetchall()
        self.same(got[0][0][1], arrays[1])
        self.assertEqual((got[1][0], got[2][0]), ([], None))
        with self.conn.cursor() as cur:
            with cur.copy("COPY adapter_t (id, l) FROM STDIN (FORMAT binary)") as cp:
                cp.set_types(["int8", "agent_state[]"])
                cp.write_row((4, arrays))
            got = cur.execute("SELECT l FROM adapter_t WHERE id = 4", binary=True).fetchone()[0]
        self.same(got[1], arrays[1])

    def test_two_dimensional_array_of_tensors(self):
        arrays = [[Tensor(np.full(1, 10 * i + j, "i2")) for j in range(2)] for i in range(2)]
        got = self.conn.execute("SELECT %s::gpuagent.agent_state[]", [arrays], binary=True).fetchone()[0]
        self.assertEqual([[int(x[0]) for x in row] for row in got], [[0, 1], [10, 11]])

    def test_client_side_binding(self):
        cur = psycopg.ClientCursor(self.conn)
        array = sample("f4", (3, 2))
        self.same(cur.execute("SELECT %s::gpuagent.agent_state", [array]).fetchone()[0], array)
        cur.execute("SELECT %s", [Tensor(array, type="agent_state")])
        self.same(cur.fetchone()[0], array)

    def test_pipeline_and_rows(self):
        rows = self.rows()
        with self.conn.pipeline():
            for row in rows:
                self.conn.execute("INSERT INTO adapter_t VALUES (%s, %s, %s, %s)", row)
        self.conn.execute("SET gpuagent.compression = off")
        self.check(self.conn, rows)
        cur = self.conn.cursor(binary=True, row_factory=psycopg.rows.dict_row)
        self.same(cur.execute("SELECT s FROM adapter_t WHERE id = 3").fetchone()["s"], rows[3][3])


class TensorClass(AdapterTest):
    def test_untyped_queries(self):
        array = sample("f4", (3,)).copy()
        array[:] = [1, 2, 3]
        for type in gpuagent.TYPES:
            self.conn.execute("SET gpuagent.compression = off")
            for query in ("SELECT %s, pg_typeof(%s)::oid::int8", "SELECT %t, pg_typeof(%b)::oid::int8"):
                tensor = Tensor(array, type=type)
                got, oid = self.conn.execute(query, [tensor, tensor]).fetchone()
                self.same(got, array)
                self.assertEqual(oid, self.conn.adapters.types[type].oid)
        mixed = [Tensor(array, type="embedding"), Tensor(array)]
        with self.conn.transaction():
            self.conn.execute("CREATE TEMP TABLE adapter_m (e gpuagent.embedding)")
            self.conn.cursor().executemany("INSERT INTO adapter_m VALUES (%s)", [(t,) for t in mixed])

    def test_bfloat16(self):
        values = np.array([1.0, -2.5, np.inf, 3.3895314e38], "f4")
        tensor = Tensor((values.view("u4") >> 16).astype("u2"), "BF16")
        np.testing.assert_array_equal(tensor.numpy(), values)
        self.assertEqual(tensor.numpy().dtype, np.float32)
        np.testing.assert_array_equal(np.asarray(tensor, dtype="f8"), values.astype("f8"))
        self.assertEqual((tensor.dtype, tensor.shape, tensor.nbytes), ("BF16", (4,), 8))
        wide = self.conn.execute("SELECT gpuagent.astype(%s::gpuagent.agent_state, 'F32')", [tensor]).fetchone()[0]
        np.testing.assert_array_equal(wide, values)
        scalar = Tensor(np.array(0x3F80, "u2"), "bf16")
        self.assertEqual((scalar.numpy().shape, float(scalar.numpy())), ((), 1.0))

    def test_what_it_refuses(self):
        for args, error in (
            ((np.zeros(2, "f4"), "BF16"), "raw bits"),
            ((np.zeros(2, "f4"), "F16"), "raw bits"),
            ((np.zeros(2, "u2"), "F16"), "raw bits"),
            ((np.zeros(2, "u1"), "F4"), "shape"),
            ((np.zeros(2, "u1"), "F4", (5,)), "2 bytes"),
            ((np.zeros(2, "u1"), "F7"), "unknown dtype"),
        ):
            with self.assertRaisesRegex(ValueError, error):
                Tensor(*args)
        with self.assertRaisesRegex(ValueError, "unknown type"):
            Tensor(np.zeros(2), type="vector")
        with self.assertRaisesRegex(TypeError, "raw bits"):
            Tensor(np.zeros(2, "u1"), "F8_E4M3").numpy()

    def test_equality_and_construction(self):
        self.assertEqual(Tensor([1, 2], "F32"), Tensor(np.array([1, 2], "f4")))
        self.assertNotEqual(Tensor([1, 2], "F32"), Tensor([1, 2], "F64"))
        self.assertNotEqual(Tensor([[1, 2]], "F32"), Tensor([1, 2], "F32"))
        self.assertNotEqual(Tensor([0.0]), Tensor([-0.0]))
        self.assertEqual(Tensor(np.arange(6), shape=(2, 3)), Tensor(np.arange(6).reshape(2, 3)))
        again = Tensor(Tensor(np.zeros(4, "u1"), "F4", (8,)), type="swarm_tensor")
        self.assertEqual((again.dtype, again.shape, again.type), ("F4", (8,), "swarm_tensor"))
        self.assertEqual(repr(again), "<gpuagent.Tensor F4[8]>")

    def test_ml_dtypes_by_name(self):
        # A dtype that registers itself with NumPy is known by its name; a stand-in shows the bits pass unchanged.
        brain = types.SimpleNamespace(kind="V", itemsize=2, name="bfloat16")
        raw = np.array([0x3F80, 0x7FC1], "u2")
        array = mock.MagicMock(spec=np.ndarray)
        array.dtype, array.view = brain, raw.view
        dtype, data = gpuagent._canonical(array)
        self.assertEqual((dtype.name, data.tolist()), ("BF16", raw.tolist()))

    if torch:

        def test_torch(self):
            for tensor in (
                torch.randn(3, 4),
                torch.randn(3, 4).t(),
                torch.randn(2, 3).bfloat16(),
                torch.tensor(1.5, dtype=torch.bfloat16),
                torch.randn(5).half(),
                torch.arange(4),
                torch.tensor([True, False]),
                torch.randn(2, requires_grad=True),
                torch.nn.Parameter(torch.randn(3)),
                torch.zeros(0, 3),
                *([torch.randn(4).to(torch.float8_e4m3fn)] if hasattr(torch, "float8_e4m3fn") else []),
            ):
                got = Tensor(self.round_trip(tensor, binary=True)).torch()
                self.assertEqual((got.dtype, got.shape), (tensor.dtype, tensor.shape))
                self.assertEqual(Tensor(got), Tensor(tensor))
                got.fill_(0)  # is writable


class Registration(AdapterTest):
    def test_lives_beside_another_ndarray_adapter(self):
        class Other(Dumper):
            format, oid = Format.TEXT, 25

            def dump(self, obj):
                return b"other"

        array = np.ones(2, "f4")
        for order in ("before", "after"):
            conn = self.connect()
            if order == "before":
                conn.adapters.register_dumper(np.ndarray, Other)
            register(conn, ndarray=False)
            if order == "after":
                conn.adapters.register_dumper(np.ndarray, Other)
            self.assertEqual(conn.execute("SELECT %s", [array]).fetchone()[0], "other")
            self.same(self.round_trip(Tensor(array), conn=conn, binary=True), array)
            got = conn.execute("SELECT %s::gpuagent.agent_state[]", [[Tensor(array)]]).fetchone()[0]
            self.same(got[0], array)

    def test_without_registration_of_ndarray(self):
        conn = self.connect()
        register(conn, ndarray=False)
        with self.assertRaises(psycopg.ProgrammingError):
            self.round_trip(np.ones(2), conn=conn)

    def test_is_local_to_the_context(self):
        conn = self.connect()
        cur = conn.cursor()
        register(cur)
        array = np.ones(2, "f4")
        self.same(cur.execute("SELECT %s::gpuagent.embedding", [array]).fetchone()[0], array)
        with self.assertRaises(psycopg.ProgrammingError):
            conn.execute("SELECT %s::gpuagent.embedding", [array])
        self.assertEqual(conn.execute("SELECT '[1,1]'::gpuagent.embedding").fetchone()[0], "[1,1]")

    def test_leaves_the_connection_as_it_was(self):
        conn = psycopg.connect()
        self.addCleanup(conn.close)
        register(conn)
        self.assertEqual(conn.info.transaction_status, psycopg.pq.TransactionStatus.IDLE)
        conn.execute("SELECT 1")
        register(conn)
        self.assertEqual(conn.info.transaction_status, psycopg.pq.TransactionStatus.INTRANS)

    def test_any_row_and_cursor_factory_and_path(self):
        for options in (
            {"row_factory": psycopg.rows.dict_row},
            {"cursor_factory": psycopg.ClientCursor},
            {"options": "-c search_path=gpuagent"},
        ):
            conn = self.connect(**options)
            register(conn)
            cur = conn.cursor(row_factory=psycopg.rows.tuple_row)
            self.same(cur.execute("SELECT %s::gpuagent.embedding", [np.ones(2, "f4")]).fetchone()[0], np.ones(2, "f4"))
            cur.execute("SELECT %s::gpuagent.embedding[]", [[np.ones(2, "f4")]])
            self.same(cur.fetchone()[0][0], np.ones(2, "f4"))

    def test_survives_discard_all(self):
        # What a pooler does between two clients must not disturb the adapter.
        self.conn.prepare_threshold = None
        for _ in range(3):
            self.same(self.round_trip(np.ones(2, "f4"), binary=True), np.ones(2, "f4"))
            self.conn.execute("DISCARD ALL")

    def test_wrong_context(self):
        with self.assertRaisesRegex(TypeError, "configure"):
            register(object())

    def test_database_without_extension(self):
        with mock.patch.object(gpuagent, "TYPES", ("no_such_type",)):
            with self.assertRaisesRegex(psycopg.ProgrammingError, "CREATE EXTENSION"):
                register(self.connect())


class Text(AdapterTest):
    def test_warns_once_about_long_text(self):
        gpuagent._warned_about_text = False
        self.conn.execute("SET gpuagent.compression = off")
        big, small = np.zeros(50000, "f4"), np.zeros(3, "f4")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            self.round_trip(small)
            self.round_trip(big, binary=True)
            self.assertEqual(len(seen), 0)
            self.round_trip(big)
            self.round_trip(big)
        self.assertEqual([w.category for w in seen], [UserWarning])
        self.assertIn("binary=True", str(seen[0].message))

    def test_compressed_text_without_zstandard(self):
        self.conn.execute("SET gpuagent.compression = on")
        with mock.patch.dict(sys.modules, {"zstandard": None, "compression": None}):
            with self.assertRaisesRegex(psycopg.NotSupportedError, "binary=True"):
                self.round_trip(np.zeros(1000, "f4"), "swarm_tensor")

    def test_compressed_text(self):
        # The planes of the byte shuffle are put back; a stand-in for zstandard hands over what it is given.
        array = np.arange(1000, dtype="u4")
        planes = b"".join(array.view("u1").reshape(-1, 4)[:, k].tobytes() for k in range(4))
        with mock.patch.object(gpuagent, "_decompress", lambda packed, nbytes: planes):
            self.same(gpuagent._from_text(b"U32[10,100]:zstd:AAAA"), array.reshape(10, 100))

    def test_damaged_values(self):
        good = gpuagent._to_wire(np.arange(3, dtype="f4"))
        swaps = ((0, b"X"), (2, b"\2"), (3, b"\0"), (3, b"\x17"), (4, b"\2"))
        altered = [good[:i] + b + good[i + 1 :] for i, b in swaps]
        for bad in (good[:-1], good + b"x", good[:5], b"", *altered):
            with self.assertRaises(psycopg.DataError):
                gpuagent._from_wire(bad)

    def test_wire_bytes(self):
        self.assertEqual(
            gpuagent._to_wire(np.array([[1, 2]], "u2")),
            b"GA" + bytes([1, 8, 2, 0, 0, 0]) + struct.pack("<QQ", 1, 2) + struct.pack("<HH", 1, 2),
        )
        self.assertEqual(gpuagent._to_text(np.array([[1, 2]], "u2")), b"U16[1,2]:raw:AQACAA==")


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_round_trip(self):
        async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
            await register(conn)
            await conn.execute("CREATE TEMP TABLE adapter_a (id int8, a gpuagent.agent_state)")
            arrays = [sample(d, (2, 3)) for d in NATIVE]
            async with conn.cursor(binary=True) as cur:
                await cur.executemany("INSERT INTO adapter_a VALUES (%s, %s)", list(enumerate(arrays)))
                async with cur.copy("COPY adapter_a FROM STDIN (FORMAT binary)") as cp:
                    cp.set_types(["int8", "gpuagent.agent_state"])
                    for i, array in enumerate(arrays):
                        await cp.write_row((len(arrays) + i, array))
                await cur.execute("SELECT a FROM adapter_a ORDER BY id")
                for (got,), array in zip(await cur.fetchall(), arrays + arrays, strict=True):
                    self.assertEqual(bits(got), bits(array))
                await cur.execute("SELECT array_agg(a ORDER BY id) FROM adapter_a")
                self.assertEqual([bits(x) for x in (await cur.fetchone())[0]], [bits(x) for x in arrays + arrays])
                cursor = conn.cursor()
                await register(cursor, ndarray=False)

    async def test_refused_without_extension(self):
        async with await psycopg.AsyncConnection.connect() as conn:
            with mock.patch.object(gpuagent, "TYPES", ("no_such_type",)):
                with self.assertRaises(psycopg.ProgrammingError):
                    await register(conn)


def zstd_readable():
    try:
        import zstandard
    except ImportError:
        return sys.version_info >= (3, 14)
    return True


if __name__ == "__main__":
    unittest.main()
