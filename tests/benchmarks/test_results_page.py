"""The page of results: each benchmark writes its own section and keeps the others."""

from __future__ import annotations

from benchmarks.results_page import with_section

QUEUE = "## The queue\n\nfast\n\n### Goals\n\n- met\n"
EMBEDDINGS = "## Embeddings\n\nfaster\n"


def test_a_first_section_makes_the_page() -> None:
    assert with_section("", QUEUE) == f"# Results\n\n{QUEUE}"


def test_a_new_section_comes_last() -> None:
    page = with_section(with_section("", QUEUE), EMBEDDINGS)
    assert page == f"# Results\n\n{QUEUE}\n{EMBEDDINGS}"


def test_a_section_written_again_stays_where_it_was_and_leaves_the_others() -> None:
    page = with_section(with_section("", QUEUE), EMBEDDINGS)
    again = with_section(page, "## The queue\n\nfaster still\n")
    assert again == f"# Results\n\n## The queue\n\nfaster still\n\n{EMBEDDINGS}"
    assert with_section(again, QUEUE) == page
