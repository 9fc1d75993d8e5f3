"""Tests of a class on one connection: what a failure leaves of a transaction or of settings ends with its test."""

import unittest

import psycopg


class SharedConnection(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.conn = cls.connect()
        cls.addClassCleanup(cls.conn.close)     # after tearDownClass

    @classmethod
    def connect(cls):
        """In autocommit; settings that all tests need are in the options, since others are reset."""
        return psycopg.connect(autocommit=True)

    def tearDown(self):
        self.conn.rollback()
        self.conn.execute("RESET ALL")
        super().tearDown()

    @classmethod
    def one(cls, query, *params):
        return cls.conn.execute(query, params).fetchone()[0]
