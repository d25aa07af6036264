#!/usr/bin/env python3
"""Runs the Python tests of folders: run.py [--only TEXT] [--but TEXT] [--skip REASON] [--jobs N] FOLDER...

Each test prints one line with its time, or the reason for which it is skipped. The last line counts them:
`cargo xtask test` reads it. A file is a module `test_*.py` of unittest. With --skip no test runs, and each
counts as skipped for that reason. With --jobs, N processes share the tests. Exit status 1 if a test failed
or a file could not be loaded.
"""

import argparse
import multiprocessing
import os
import sys
import textwrap
import time
import traceback
import unittest

TESTS = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


class Lines(unittest.TestResult):
    """One line a test, and the counts."""

    def __init__(self):
        super().__init__()
        self.passed = self.failed = 0
        self.began = time.monotonic()

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def line(self, word, test, text=""):
        seconds = time.monotonic() - self.began
        print(f"{word:>6} [{seconds:7.2f} s] {test.id()}{text}", flush=True)

    def addSuccess(self, test):
        self.passed += 1
        self.line("ok", test)

    def addFailure(self, test, error):
        self.failed += 1
        # Indented: what a failed program counted is not what is counted here.
        text = "".join(traceback.format_exception(*error))
        self.line("FAILED", test, "\n" + textwrap.indent(text, "    "))

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        """Each part of a table-driven test is a test of its own in the counts."""
        if error is None:
            self.passed += 1
        else:
            self.addFailure(subtest, error)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"  skip {test.id()}: {reason}", flush=True)

    def addExpectedFailure(self, test, error):
        self.addFailure(test, error)

    def addUnexpectedSuccess(self, test):
        self.passed += 1


def tests_of(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from tests_of(entry)
        else:
            yield entry


class AtOnce:
    """Runs tests in processes, each in one that is forked for it and so has the tests."""

    tests = []

    @classmethod
    def run(cls, number):
        result = Lines()
        unittest.TestSuite([cls.tests[number]]).run(result)
        return result.passed, result.failed, len(result.skipped)

    @classmethod
    def run_all(cls, tests, jobs, result):
        cls.tests = tests
        with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as processes:
            for passed, failed, skipped in processes.imap_unordered(cls.run, range(len(tests))):
                result.passed += passed
                result.failed += failed
                result.skipped += [None] * skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="tests whose name contains this")
    parser.add_argument("--but", help="leave out tests whose name contains this")
    parser.add_argument("--skip", help="count every test as skipped, for this reason")
    parser.add_argument("--jobs", type=int, default=1, help="run this many tests at once")
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    options = parser.parse_args()

    # What the tests share: the host under test, the guest.
    sys.path[:0] = [os.path.join(TESTS, "e2e"), os.path.join(TESTS, "guest")]
    result = Lines()
    suite = unittest.TestSuite()
    for folder in options.folders:
        found = list(tests_of(unittest.TestLoader().discover(folder, top_level_dir=folder)))
        if not found:
            sys.exit(f"{folder}: no test in it")
        chosen = [test for test in found if options.only in test.id()]
        if options.but:
            chosen = [test for test in chosen if options.but not in test.id()]
        if options.skip:
            for test in chosen:
                result.addSkip(test, options.skip)
        else:
            suite.addTests(chosen)
    if options.jobs > 1:
        AtOnce.run_all(list(suite), options.jobs, result)
    else:
        suite.run(result)
    print(f"{result.passed} passed, {result.failed} failed, {len(result.skipped)} skipped")
    sys.exit(result.failed != 0)


if __name__ == "__main__":
    main()
