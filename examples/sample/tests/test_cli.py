import contextlib
import io
import pathlib
import tempfile
import unittest
from unittest import mock

from wordstat.cli import main


def run(*arguments, stdin=""):
    """Returns exit code, standard output and standard error of the command."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch("sys.stdin", io.StringIO(stdin)), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


class Command(unittest.TestCase):
    def test_standard_input(self):
        self.assertEqual(run(stdin="b a b\n"), (0, "2 b\n1 a\n", ""))

    def test_files(self):
        with tempfile.TemporaryDirectory() as directory:
            one, two = (pathlib.Path(directory, name) for name in ("one", "two"))
            one.write_text("a b", encoding="utf-8")
            two.write_text("b", encoding="utf-8")
            self.assertEqual(run(str(one), str(two)), (0, "2 b\n1 a\n", ""))

    def test_a_file_that_is_not_there(self):
        code, out, err = run("/no/such/file")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("/no/such/file", err)


if __name__ == "__main__":
    unittest.main()
