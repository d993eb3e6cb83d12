"""The sample project is sound, and every step of the demo's script leaves it so. Run by `make test`."""

import importlib.machinery
import importlib.util
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
CLEAN = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
sys.dont_write_bytecode = True


def load_agent():
    loader = importlib.machinery.SourceFileLoader("demo_agent", str(HERE / "demo-agent"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


AGENT = load_agent()
CHECKS = re.findall(r'^command = "(.+)"$', (HERE / "sample/ostler.toml").read_text(), re.MULTILINE)


def orders():
    """Yields every order in which the steps may be merged."""
    for order in itertools.permutations(AGENT.STEPS):
        titles = [step["title"] for step in order]
        if all(other in titles[:place] for place, step in enumerate(order) for other in step["after"]):
            yield order


class Steps(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        self.directory = pathlib.Path(directory.name)

    def fresh(self, name):
        copy = self.directory / name
        shutil.copytree(HERE / "sample", copy, ignore=shutil.ignore_patterns("__pycache__"))
        os.chdir(copy)
        return copy

    def check(self):
        """Runs the project's checks and returns the number of its tests."""
        for command in CHECKS:
            done = subprocess.run(command, shell=True, env=CLEAN, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}{done.stderr}")
            tests = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
            count = int(tests[1]) if tests else count
        return count

    def contents(self, copy):
        return {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}

    def test_each_step_in_each_order_passes_the_checks_and_may_be_repeated(self):
        self.assertEqual(len(CHECKS), 2)
        results = []
        for number, order in enumerate(orders()):
            copy = self.fresh(str(number))
            tests = [self.check()]
            for step in order:
                before = self.contents(copy)
                step["edit"]()
                after = self.contents(copy)
                self.assertNotEqual(before, after, step["title"])
                step["edit"]()
                self.assertEqual(self.contents(copy), after, step["title"])
                tests.append(self.check())
            self.assertGreaterEqual(tests[0], 10)
            self.assertGreaterEqual(tests[-1], tests[0] + 8)
            self.assertEqual(tests, sorted(tests))
            results.append({str(file.relative_to(copy)): text for file, text in after.items()})
        self.assertEqual(len(results), 2)
        self.assertEqual(*results)

    def test_a_project_that_is_not_as_expected_is_refused(self):
        copy = self.fresh("other")
        (copy / "wordstat/count.py").write_text("def count_words(text): pass\n")
        with self.assertRaises(AGENT.Refused):
            AGENT.edit_count()


if __name__ == "__main__":
    unittest.main()
