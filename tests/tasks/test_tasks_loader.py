"""Loading tasks by name and path: what comes out, what pins it, and what a user is told when it cannot be had."""

import importlib.machinery
import json
import sys
import types
from pathlib import Path

import pytest

from harness.records import InputError, Task
from harness.tasks import definition
from harness.tasks.loader import list_tasks, load_task, problems_sha256, render, verify_tasks

SUFFIX = "\nLet's think step by step and output the final answer within \\boxed{}."


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    return tmp_path


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_task(folder: Path, text: str, rows: list[dict] | None = None) -> str:
    """A user's own task file with its rows beside it; returns the path to load."""
    path = folder / "mine.yaml"
    head = 'answer_type: math\nlicence: mine\nprompt_template: "{prompt}\\n"\n'
    path.write_text(head + text, encoding="utf-8")
    if rows is not None:
        write_rows(folder / "rows.jsonl", rows)
    return str(path)


MATH_FIELDS = "file: rows.jsonl\nfields: {prompt: q, answer: a, id: id, level: level}\n"


class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "count", "answer_type"),
        [
            ("math500", 500, "math"),
            ("amc23", 40, "integer"),
            ("amc_aimo", 83, "integer"),
            ("aime24", 30, "integer"),
            ("gsm8k", 1319, "integer"),
        ],
    )
    def test_holds_all_its_problems(self, data_dir, name, count, answer_type):
        task = load_task(name)
        assert (len(task.problems), task.answer_type) == (count, answer_type)
        assert render(task, task.problems[0]) == task.problems[0].prompt + SUFFIX

    def test_first_rows(self, data_dir):
        first = load_task("math500", limit=1).problems[0]
        assert (first.id, first.answer) == ("test/precalculus/807.json", "\\left( 3, \\frac{\\pi}{2} \\right)")
        assert (first.subject, first.level) == ("Precalculus", 2)
        assert load_task("gsm8k", limit=1).problems[0].answer == "18"

    def test_are_the_pinned_ones(self, data_dir):
        checks = {check.name: check for check in verify_tasks()}
        for name in ("math500", "amc23", "amc_aimo", "aime24", "gsm8k"):
            assert checks[name].ok, checks[name].detail

    def test_champ(self):
        if importlib.util.find_spec("champ_dataset") is None:
            pytest.skip("champ-dataset is not installed")
        task = load_task("champ")
        assert len(task.problems) == 270
        assert (task.problems[0].id, task.problems[0].answer) == ("P_Combinatorics_1", "239")
        assert "champ_dataset" not in sys.modules

    def test_builtin(self):
        if not (definition.FOLDER / "builtin_test.jsonl").is_file():
            pytest.skip("builtin_test.jsonl is not frozen yet")
        task = load_task("builtin")
        assert len(task.problems) == 250
        assert render(task, task.problems[0]) == task.problems[0].prompt + "\n"


class TestMadeFiles:
    def test_whole_math_takes_answers_from_solutions(self, data):
        rows = [
            {"problem": f"What is {i}+{{1}}?", "solution": f"so $\\boxed{{{i + 1}}}$.", "level": "Level 3", "type": "A"}
            for i in range(5000)
        ]
        write_rows(data / "math_test.jsonl", rows)
        task = load_task("math", limit=2)
        assert [(p.id, p.answer, p.level, p.subject) for p in task.problems] == [
            ("math/1", "1", 3, "A"),
            ("math/2", "2", 3, "A"),
        ]

    def test_wrong_count_is_refused(self, data):
        write_rows(data / "math_test.jsonl", [{"problem": "1+1?", "solution": "\\boxed{2}"}])
        with pytest.raises(InputError, match="holds 1 problems, 5000 expected"):
            load_task("math")

    def test_other_bytes_than_the_pinned_are_refused(self, data):
        write_rows(data / "aime24.jsonl", [{"problem": "1+1?", "answer": "2", "unique_id": "x"}])
        with pytest.raises(InputError, match=r"has sha256 .*pinned is 9c438517892d"):
            load_task("aime24")
        check = {c.name: c for c in verify_tasks()}["aime24"]
        assert (check.status, check.ok) == ("wrong", False)

    def test_hash_marks(self, data):
        text = "file: rows.jsonl\nanswer_after: '####'\nfields: {prompt: q, answer: a, id: id}\n"
        rows = [{"id": 1, "q": "x", "a": "9 * 2 = <<9*2=18>>18\n#### 18"}, {"id": 2, "q": "y", "a": "7"}]
        task = load_task(write_task(data, text, rows))
        assert [p.answer for p in task.problems] == ["18", "7"]

    def test_sha256_is_over_the_problems_before_the_limit(self, data):
        rows = [{"id": str(i), "q": "é {x}", "a": i} for i in range(3)]
        path = write_task(data, MATH_FIELDS, rows)
        whole, one = load_task(path), load_task(path, limit=1)
        assert len(one.problems) == 1
        assert whole.sha256 == one.sha256 == problems_sha256(whole.problems)
        assert whole.sha256 != problems_sha256(one.problems)
        # Held fast: a change of this form would unpin every run there is.
        assert whole.sha256 == "70f4d584360c4c2a113fe6eb41b950ede6d87cae9f2bed5497a86e60a41e8e66"

    def test_jsonl_by_path_needs_no_yaml(self, tmp_path, monkeypatch):
        monkeypatch.delenv("HARNESS_DATA", raising=False)
        task = load_task(str(write_rows(tmp_path / "own.jsonl", [{"question": "1+1?", "answer": 2.0}])))
        assert (task.name, task.problems[0].id, task.problems[0].answer) == ("own", "own/1", "2")
        task = load_task(str(write_rows(tmp_path / "own.jsonl", [{"problem": "1+1?", "answer": "2", "id": "a"}])))
        assert task.problems[0].id == "a"

    def test_line_separators_inside_a_string_do_not_split_a_row(self, data):
        task = load_task(write_task(data, MATH_FIELDS, [{"id": 1, "q": "a\u2028b", "a": "1"}]))
        assert task.problems[0].prompt == "a\u2028b"


def test_render_leaves_braces_alone():
    problem = types.SimpleNamespace(prompt="{prompt} \\frac{1}{2} {} {0}")
    task = types.SimpleNamespace(prompt_template="Q: {prompt} \\boxed{}")
    assert render(task, problem) == "Q: {prompt} \\frac{1}{2} {} {0} \\boxed{}"


class TestWhatAUserIsTold:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [("math50", "did you mean 'math500'"), ("zzz", "known: aime24"), ("no/such.yaml", "no such file")],
    )
    def test_wrong_name(self, wrong, message):
        with pytest.raises(InputError, match=message):
            load_task(wrong)

    def test_wrong_ending(self, tmp_path):
        (tmp_path / "a.csv").write_text("x")
        with pytest.raises(InputError, match=r"ends in '\.csv'; give a \.yaml or \.jsonl"):
            load_task(str(tmp_path / "a.csv"))

    def test_limit(self):
        with pytest.raises(InputError, match="limit = 0: must be at least 1"):
            load_task("builtin", limit=0)

    def test_no_data_folder(self, monkeypatch):
        monkeypatch.delenv("HARNESS_DATA", raising=False)
        with pytest.raises(InputError, match=r"amc23\.jsonl is not at hand; set HARNESS_DATA"):
            load_task("amc23")
        status = {s.name: s for s in list_tasks()}
        assert not status["amc23"].at_hand and "set HARNESS_DATA" in status["amc23"].detail
        assert status["math"].pin == "unpinned" and status["math500"].pin == "sha256 35dc41080a36; hub unpinned"

    def test_data_folder_that_is_none(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "gone"))
        with pytest.raises(InputError, match="no such folder"):
            load_task("amc23")

    def test_file_missing_from_the_data_folder(self, data):
        with pytest.raises(InputError, match=r"amc23\.jsonl is not in HARNESS_DATA = .*; put it into HARNESS_DATA"):
            load_task("amc23")

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "holds no problems"),
            ([{"id": 1, "q": "x", "a": "1"}, {"id": 1, "q": "y", "a": "2"}], "id '1' occurs twice"),
            ([{"id": 1, "q": "x", "a": "1"}, {"id": 2, "q": "y"}], "row 2: answer field 'a' is missing"),
            ([{"id": 1, "a": "1"}], "row 1: prompt field 'q' is missing"),
            ([{"q": "x", "a": "1"}], "row 1: id field 'id' is missing"),
            ([{"id": 1, "q": " ", "a": "1"}], "row 1: prompt = ' '"),
            ([{"id": 1, "q": "x", "a": " "}], "row 1: answer is empty"),
            ([{"id": 1, "q": "x", "a": ["1"]}], r"row 1: answer = \['1'\]"),
            ([{"id": 1, "q": "x", "a": "1", "level": "hard"}], "row 1: level = 'hard'"),
        ],
    )
    def test_rows_that_do_not_fit(self, data, rows, message):
        with pytest.raises(InputError, match=message) as caught:
            load_task(write_task(data, MATH_FIELDS, rows))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("line", "message"), [('{"id": ', "row 2 is not JSON"), ("[1]", "row 2: expected named fields, found list")]
    )
    def test_lines_that_are_no_rows(self, data, line, message):
        path = write_task(data, MATH_FIELDS)
        (data / "rows.jsonl").write_text('{"id": 1, "q": "x", "a": "1"}\n' + line + "\n")
        with pytest.raises(InputError, match=message):
            load_task(path)

    def test_not_utf8(self, data):
        path = write_task(data, MATH_FIELDS)
        (data / "rows.jsonl").write_bytes(b'{"q": "\xe9"}\n')
        with pytest.raises(InputError, match="not UTF-8"):
            load_task(path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (MATH_FIELDS + "problem: 3\n", r"mine\.yaml: unknown key 'problem'; did you mean 'problems'"),
            ("file: rows.jsonl\nfields: {promt: q, answer: a}\n", r"mine\.yaml: fields: unknown key 'promt'"),
            ("fields: {prompt: q, answer: a}\n", r"mine\.yaml: no source given"),
            (MATH_FIELDS + "packaged: x.jsonl\n", r"mine\.yaml: file, packaged given"),
            (MATH_FIELDS + "sha256: abc\n", r"mine\.yaml: sha256 = 'abc'"),
            (MATH_FIELDS + "hub: {id: x, split: test, revison: y}\n", "hub: unknown key 'revison'; did you mean 'rev"),
            (MATH_FIELDS + "hub: x\n", "hub = 'x': must be named fields or nothing"),
            (MATH_FIELDS + "prompt_template: no place\n", "must hold {prompt} exactly once"),
            ("file: rows.jsonl\nfields: {prompt: q}\n", r"fields\.answer is missing"),
            ("file: [\n", r"mine\.yaml: cannot be read as YAML"),
        ],
    )
    def test_task_files_that_do_not_fit(self, tmp_path, text, message):
        with pytest.raises(InputError, match=message) as caught:
            load_task(write_task(tmp_path, text))
        assert "\n" not in str(caught.value)

    def test_packaged_file_missing(self, monkeypatch, tmp_path):
        text = (definition.FOLDER / "builtin.yaml").read_text(encoding="utf-8")
        (tmp_path / "builtin.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="does not come with this install"):
            load_task(str(tmp_path / "builtin.yaml"))


class TestPackage:
    @pytest.fixture
    def champ(self, tmp_path, monkeypatch) -> Path:
        """A package laid out as champ-dataset is, whose code must not run."""
        folder = tmp_path / "fake_champ"
        (folder / "files").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')")
        rows = {"P_1": {"identifier": "P_1", "_text": "How many?", "_answer": "4^n", "category": "Combinatorics"}}
        (folder / "files" / "v0.json").write_text(json.dumps({"problems": rows, "hints": {}}))
        monkeypatch.syspath_prepend(str(tmp_path))
        return folder

    TEXT = (
        "package: {module: fake_champ, distribution: fake-champ, file: files/v0.json, rows: problems}\n"
        "fields: {prompt: _text, answer: _answer, id: identifier, subject: category}\n"
    )

    def test_is_read_without_importing_it(self, champ, tmp_path):
        problem = load_task(write_task(tmp_path, self.TEXT)).problems[0]
        assert (problem.id, problem.answer, problem.subject) == ("P_1", "4^n", "Combinatorics")

    def test_without_its_file(self, champ, tmp_path):
        (champ / "files" / "v0.json").unlink()
        with pytest.raises(InputError, match="pip install --force-reinstall fake-champ"):
            load_task(write_task(tmp_path, self.TEXT))

    def test_with_another_layout(self, champ, tmp_path):
        (champ / "files" / "v0.json").write_text("{}")
        with pytest.raises(InputError, match="no JSON with a 'problems' entry"):
            load_task(write_task(tmp_path, self.TEXT))

    def test_not_installed(self, tmp_path):
        with pytest.raises(InputError, match="fake-champ is not installed; pip install fake-champ"):
            load_task(write_task(tmp_path, self.TEXT))


class TestHub:
    TEXT = (
        "problems: 2\nfields: {prompt: problem, answer: answer, id: unique_id}\nfile: rows.jsonl\n"
        "hub: {id: somebody/sums, split: test, revision: null, configs: [a, b],"
        " fields: {prompt: question, answer: answer}}\n"
    )

    @pytest.fixture
    def hub(self, monkeypatch) -> types.SimpleNamespace:
        """Stands in for the datasets package; ``calls`` holds what was asked for."""
        fake = types.ModuleType("datasets")
        fake.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
        seen = types.SimpleNamespace(calls=[], error=None)

        def load_dataset(path, config, *, split, revision):
            seen.calls.append((path, config, split, revision))
            if seen.error is not None:
                raise seen.error
            return [{"question": f"of {config}", "answer": 142.0}]

        fake.load_dataset = load_dataset
        fake.exceptions = types.SimpleNamespace(DatasetsError=RuntimeError)
        monkeypatch.setitem(sys.modules, "datasets", fake)
        return seen

    def test_is_asked_where_no_file_lies(self, hub, data, caplog):
        task: Task = load_task(write_task(data, self.TEXT))
        assert hub.calls == [("somebody/sums", "a", "test", None), ("somebody/sums", "b", "test", None)]
        assert [(p.id, p.prompt, p.answer) for p in task.problems] == [
            ("mine/1", "of a", "142"),
            ("mine/2", "of b", "142"),
        ]
        assert "unpinned" in caplog.text

    def test_is_not_asked_where_a_file_lies(self, hub, data):
        rows = [{"problem": "x", "answer": "1", "unique_id": str(i)} for i in range(2)]
        assert load_task(write_task(data, self.TEXT, rows)).problems[0].prompt == "x"
        assert hub.calls == []

    def test_revision_is_passed_on(self, hub, data, caplog):
        load_task(write_task(data, self.TEXT.replace("revision: null", "revision: v1")))
        assert hub.calls[0][3] == "v1" and "unpinned" not in caplog.text

    @pytest.mark.parametrize("error", [ConnectionError("offline"), ValueError("no config"), RuntimeError("broken")])
    def test_out_of_reach(self, hub, data, error):
        hub.error = error
        with pytest.raises(InputError, match=f"could not be loaded from its hub .{error}.; go online"):
            load_task(write_task(data, self.TEXT))

    def test_without_the_extra(self, data, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"pip install 'reasoning-harness\[datasets\]'"):
            load_task(write_task(data, self.TEXT))

    def test_a_wrong_data_folder_is_said_and_not_worked_around(self, hub, monkeypatch, tmp_path):
        monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "gone"))
        with pytest.raises(InputError, match="no such folder"):
            load_task("math500")
        assert hub.calls == []


class TestDefinitions:
    def test_all_are_listed_with_a_licence(self):
        table = list_tasks()
        names = {status.name for status in table}
        assert {"builtin", "math500", "math", "amc23", "amc_aimo", "aime24", "gsm8k", "champ"} <= names
        assert all(status.licence for status in table)

    def test_nothing_without_a_file_is_called_ok(self, data):
        # A folder that holds none of the files: whatever is ok then comes with the install or a package.
        for check in verify_tasks():
            assert check.ok is None or check.name in ("builtin", "champ"), check
