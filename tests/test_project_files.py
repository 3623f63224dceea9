"""Files about the project: they parse, and say what the code says."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

import nid_jax

ROOT = Path(__file__).resolve().parents[1]
YAML = [
    ROOT / "CITATION.cff",
    ROOT / ".pre-commit-config.yaml",
    *sorted((ROOT / ".github").rglob("*.yml")),
]


def loaded(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_is_a_mapping_without_a_key_said_twice(path):
    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    assert isinstance(yaml.load(path.read_text(encoding="utf-8"), Loader), dict)


def test_the_citation_is_of_this_version_and_names_the_paper():
    found = loaded(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "license", "type"} <= set(found)
    assert found["cff-version"] == "1.2.0"
    assert found["version"] == nid_jax.__version__
    assert found["authors"] == [{"name": "The nid_jax authors"}]
    (paper,) = found["references"]
    assert paper["title"] in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for author in paper["authors"]:
        assert set(author) == {"family-names", "given-names"}


def test_style_at_commits_is_that_of_make_lint():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    wanted = re.search(r"^ruff == (.*)$", settings["options.extras_require"]["test"], re.MULTILINE)
    (hooks,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert hooks["rev"] == f"v{wanted[1]}"


def test_the_hosted_run_is_the_one_of_the_repository():
    jobs = loaded(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    allowed = {".ci/run"} | {f"make {target}" for target in targets}
    mine = {command for command in commands if not command.startswith("sudo apt-get ")}
    assert ".ci/run" in mine
    assert mine <= allowed
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_forms_for_issues_have_what_the_host_asks_for():
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")):
        form = loaded(path)
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids))
        for field in form["body"]:
            assert field["type"] == "textarea"
            assert field["attributes"]["label"]


def test_the_changelog_has_this_version_or_what_is_unreleased_first():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    pattern = r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}"
    assert all(re.fullmatch(pattern, heading) for heading in headings[1:])
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_files_that_pages_name_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    names = re.findall(r"`((?:nid_jax|configs|tests|docs|experiments)/[\w./]+\.\w+)`", text)
    names += re.findall(r"\]\((?!https:)([\w./-]+)", text)
    for name in names:
        assert (ROOT / name).exists() or "NAME" in name, name
