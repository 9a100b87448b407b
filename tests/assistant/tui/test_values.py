"""The pure parts: branches, tokens, heat, stages, Markdown cutting, exports, commands, configuration files."""

import random
from dataclasses import replace

import pytest
from textual.color import Color

from assistant.errors import UsageError
from assistant.events import Finished, Moderated, PromptChecked, Token
from assistant.tui import commands, config_file, export, own_keys, personas
from assistant.tui.branch import Branch
from assistant.tui.deeds import DEEDS
from assistant.tui.explanation import find
from assistant.tui.format import footer, seconds, shortened, when
from assistant.tui.heat import heat_map, strongest
from assistant.tui.rendering import marked
from assistant.tui.reply_blocks import Blocks
from assistant.tui.stages import Stages
from assistant.tui.text import say
from assistant.tui.tokens import Unit, units
from explain.attribution import Attribution
from safety import policy
from safety.verdict import Action, Finding, Verdict
from tests.assistant.tui.fakes import ALLOW, BEGAN, make_turn, tokens_of

# -- branches ----------------------------------------------------------------------------------------------------------


def tree():
    """T1 ─ T2 ─ T4, T1 ─ T3 (a sibling of T2), T5 (a sibling of T1)."""
    return [
        make_turn(1, "a", "A"),
        make_turn(2, "b", "B", "T0001"),
        make_turn(3, "b", "B2", "T0001"),
        make_turn(4, "c", "C", "T0002"),
        make_turn(5, "a", "A2"),
    ]


def test_a_branch_goes_through_a_turn_to_its_newest_descendant():
    ids = [t.id for t in Branch.through(tree(), "T0001").path]
    assert ids == ["T0001", "T0003"]
    assert [t.id for t in Branch.through(tree(), "T0002").path] == ["T0001", "T0002", "T0004"]
    assert [t.id for t in Branch.through(tree()).path] == ["T0005"]
    assert Branch.through([]).path == []


def test_siblings_are_numbered_and_neighbours_found():
    branch = Branch.through(tree(), "T0002")
    second = branch.path[1]
    assert branch.position(second) == (1, 2)
    assert branch.neighbour(second, 1) == "T0003"
    assert branch.neighbour(second, -1) is None
    assert branch.position(branch.path[2]) == (1, 1)


def test_a_finished_turn_cuts_what_stood_after_its_parent():
    branch = Branch.through(tree(), "T0002")
    branch.add(make_turn(6, "b", "B3", "T0001"))
    assert [t.id for t in branch.path] == ["T0001", "T0006"]
    assert branch.position(branch.path[1]) == (3, 3)


def test_only_the_last_turns_keep_their_tokens():
    branch = Branch()
    for number in range(1, 31):
        branch.add(make_turn(number, "q", "answer", f"T{number - 1:04d}" if number > 1 else None, prompt_ids=(1, 2)))
        branch.forget_tokens(5)
    assert [bool(t.tokens) for t in branch.path] == [False] * 25 + [True] * 5
    assert all(not t.prompt_ids for t in branch.path[:25]) and [t.reply for t in branch.path] == ["answer"] * 30


def test_a_log_whose_turns_follow_each_other_in_a_circle_is_shown_all_the_same():
    turns = [make_turn(1, "a", "A", "T0002"), make_turn(2, "b", "B", "T0001")]
    assert len(Branch.through(turns, "T0001").path) <= 4


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_the_pieces_of_one_character_are_one_unit():
    assert [u.text for u in units(["今", "", "", "天", " is"])] == ["今", "天", " is"]
    assert units(["今", "", "", "天"])[1].indices == (1, 2, 3)
    assert [u.indices for u in units(["\ufffd", "\ufffd", "天"])] == [(0, 1), (2,)]
    assert [u.text for u in units(["a", "", ""])] == ["a", "\ufffd"]


def test_every_token_is_in_exactly_one_unit_at_every_level():
    random_ = random.Random(1)
    for _ in range(500):
        texts = [random_.choice(["", "天", " the", "\ufffd", "a.", "。", "\n", "x"]) for _ in range(random_.randint(0, 30))]
        roles = sorted(random_.choice(["format", "system", "user"]) for _ in texts)
        for level in ("token", "word", "sentence", "turn"):
            made = units(texts, roles, level)
            assert sorted(i for u in made for i in u.indices) == list(range(len(texts)))
            for unit in made:
                assert {roles[i] for i in unit.indices} == {unit.role}


def test_words_and_sentences():
    pieces = ["Ray", "leigh", " scatter", "ing", ". ", "天", "空", "。", "好"]
    assert [u.text for u in units(pieces, level="word")] == ["Rayleigh", " scattering", ". ", "天", "空", "。", "好"]
    assert [u.text for u in units(pieces, level="sentence")] == ["Rayleigh scattering. ", "天空。", "好"]
    assert [u.text for u in units(["a", "b"], ["user", "assistant"], "turn")] == ["a", "b"]


# -- heat --------------------------------------------------------------------------------------------------------------


def test_the_strongest_are_marked_without_colour():
    made = [Unit("why", (0,)), Unit(" sky", (1,)), Unit(" is", (2,)), Unit("\x1b[2J", (3,))]
    content = heat_map(made, [0.1, 2.0, -1.0, 0.0], Color.parse("black"))
    assert content.plain == "why³ sky¹ is²␛[2J"
    assert strongest([0.0, -3.0, 2.0], 5) == [1, 2]


def test_line_breaks_of_tokens_are_visible():
    assert heat_map([Unit("a\n", (0,)), Unit("", (1,))], [0, 0], Color.parse("black")).plain == "a⏎\n∅"


# -- stages ------------------------------------------------------------------------------------------------------------


def test_the_strip_follows_the_pipeline():
    say.use("en")
    stages = Stages(running=True)
    assert stages.line().plain == "… prompt  →  · generate  →  · output  →  · attribution"
    stages = stages.after(PromptChecked("T", "C", "p", ALLOW))
    assert "✓ prompt 0.02" in stages.line().plain and "… generate reading" in stages.line().plain
    for token in tokens_of("four by four"):
        stages = stages.after(Token(token))
    assert "… generate 3 tok" in stages.line().plain
    watched = stages.after(Token(replace(tokens_of("on")[0], risk=0.125)))
    assert "… generate 4 tok · risk 0.12" in watched.line().plain
    assert "risk" not in watched.line(20).plain
    alarmed = watched
    for risk in (1.0, 0.0, 0.0, None, 0.0):  # one token does not make a reply risky
        alarmed = alarmed.after(Token(replace(tokens_of("on")[0], risk=risk)))
    assert "… generate 9 tok · risk 0.01" in alarmed.line().plain
    caution = Verdict(Action.CAUTION, 0.41, {"self_harm": 0.41})
    assert "! output caution self-harm 0.41" in stages.after(Moderated(caution, False)).line().plain
    done = stages.after(Finished(make_turn(1, "p", "four by four")))
    assert done.line().plain == "✓ prompt 0.02  →  ✓ generate 3 tok  →  ✓ output 0.02  →  · attribution F3"
    assert done.line(50).plain == "✓ prompt 0.02 → ✓ generate → ✓ output 0.02 → · attribution"


def test_a_blocked_prompt_never_reaches_generation():
    blocked = make_turn(1, "p", "no", finish="blocked_prompt", tokens=(), output_verdict=None)
    assert "— generate" in Stages.of(blocked).line().plain


# -- Markdown cutting --------------------------------------------------------------------------------------------------


def test_blocks_are_finished_at_blank_lines_outside_of_fences_and_lists():
    blocks = Blocks()
    assert blocks.feed("one\n\ntwo") == ""
    assert blocks.feed("\n") == "one\n\n"
    assert blocks.feed("\n```py\nx\n\ny\n```\nz") == "two\n\n```py\nx\n\ny\n```\n"
    assert blocks.tail == "z"
    listed = Blocks()
    assert listed.feed("- a\n\n- b\n\nafter\n") == "- a\n\n- b\n\n"


def test_blocks_join_to_the_whole_however_it_is_cut():
    random_ = random.Random(4)
    pieces = ["a\n", "\n", "```\n", "- b\n", "  c\n", "~~~\n", "# h\n", "> q\n", "天", "1. x\n", "````\n"]
    for _ in range(2_000):
        text = "".join(random_.choice(pieces) for _ in range(random_.randint(0, 30)))
        blocks, finished, at = Blocks(), "", 0
        while at < len(text):
            step = random_.randint(1, 9)
            finished += blocks.feed(text[at : at + step])
            at += step
        assert finished + blocks.tail == text
        whole = Blocks()
        assert whole.feed(text) == finished


# -- words and marks ---------------------------------------------------------------------------------------------------


def test_findings_are_marked_in_the_text_and_bad_offsets_ignored():
    findings = [Finding("x", "r", 4, 8, 1.0), Finding("x", "r", 6, 10, 1.0), Finding("x", "r", 90, 99, 1.0), Finding("x", "r", 5, 5, 1.0)]
    assert marked("say evil words\x1b", findings).plain == "say ⟦evil w⟧ords␛"
    assert marked("[/x] [bold]", []).plain == "[/x] [bold]"


def test_the_footer_says_what_is_estimated():
    say.use("en")
    turn = make_turn(1, "p", "The sky is blue.")
    assert footer(turn) == "✓ complete · 4 tok · 14.2 tok/s · ~0.9 J/tok · mean p 0.33"
    measured = make_turn(1, "p", "hi", usage=turn.usage.__class__(1, 0, 1, 0, 0, 1.0, 2.0, "measured:rapl"))
    assert "· 2 J/tok" in footer(measured)


def test_times_and_widths():
    from datetime import datetime

    now = datetime(2025, 11, 23, 18, 0)
    assert when(BEGAN, now) == "12:13"
    assert when(BEGAN, datetime(2025, 12, 1)) == "23 Nov"
    assert when(BEGAN, datetime(2026, 1, 1)) == "2025-11-23"
    say.use("zh")
    assert when(BEGAN, datetime(2025, 12, 1)) == "11月23日"
    assert (seconds(0.0123), seconds(2.18), seconds(75)) == ("12 ms", "2.2 s", "1:15 min")
    assert shortened("天空是蓝色的", 7) == "天空是…" and shortened("abc", 3) == "abc"


# -- commands ----------------------------------------------------------------------------------------------------------


def test_every_command_has_a_deed_and_every_deed_a_command():
    assert set(DEEDS) == {command.id for command in commands.COMMANDS}


def test_no_key_is_taken_twice_nor_by_the_terminal():
    for scope in ("chat", "turn"):
        keys = [c.keys for c in commands.COMMANDS if c.scope == scope and c.keys]
        assert len(keys) == len(set(keys))
        assert not {"ctrl+i", "ctrl+m", "ctrl+h"} & set(keys)


def test_slash_commands_are_parsed_and_paths_are_not():
    say.use("en")
    assert commands.parse_slash("/model qwen")[1] == "qwen"
    assert commands.parse_slash("/new")[0].id == "new"
    for text in ("/etc/passwd is what?", "hello", "//x", "/ x", "/new\nline"):
        assert commands.parse_slash(text) is None
    with pytest.raises(UsageError, match="/regenerate"):
        commands.parse_slash("/regenrate")
    with pytest.raises(UsageError, match="nothing after it"):
        commands.parse_slash("/new x")


def test_own_keys_are_read_and_checked(tmp_path):
    path = tmp_path / "keys.toml"
    assert own_keys.read_keys(path) == {}
    path.write_text('new = "ctrl+t"\n')
    assert own_keys.read_keys(path) == {"new": "ctrl+t"}
    assert commands.keys_in_force({"new": "ctrl+t"})["new"] == "ctrl+t"
    for text, problem in (("nwe = 'x'", "no command 'nwe'"), ("new = 3", "must be a key"), ("x =", "cannot read")):
        path.write_text(text)
        with pytest.raises(UsageError, match=problem):
            own_keys.read_keys(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('new = "ctrl+nn"', "there is no key 'ctrl\\+nn'"),
        ('new = "strg+t"', "there is no key"),
        ('new = "ctrl+i"', "cannot tell ctrl\\+i from tab"),
        ('new = "n"', "needed for writing"),
        ('new = "shift+n"', "needed for writing"),
        ('new = "ctrl+r"', "regenerate and new|new and regenerate"),
        ('stop = "ctrl+x"', "ctrl\\+x already does something in the message box"),
        ('stop = "f10,f6"', "f6 already does something"),
        ('edit = "ctrl+j"', "ctrl\\+j already does something"),
        ('turn_copy = "r"', "same key r"),
        ('turn_copy = "f3"', "same key f3"),
        ('audit_verify = "x"', "same key x"),
        ('inspector_method = "l"', "same key l"),
    ],
)
def test_keys_that_cannot_work_are_refused(tmp_path, text, problem):
    path = tmp_path / "keys.toml"
    path.write_text(text + "\n")
    with pytest.raises(UsageError, match=problem):
        own_keys.read_keys(path)


def test_keys_may_be_exchanged_and_are_free_on_other_screens(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(
        'new = "ctrl+r"\nregenerate = "ctrl+n"\naudit_verify = "c, f5"\nturn_copy = "left_curly_bracket"\n'
        'stop = "escape, f10"\nedit = "ctrl+e"\ninspect = "f6"\n'
    )
    assert own_keys.read_keys(path)["audit_verify"] == "c,f5"


def test_keys_are_named_as_on_keyboards():
    names = [commands.key_name(k) for k in ("ctrl+n", "f3", "left_square_bracket", "c", "C", "alt+up", "escape")]
    assert names == ["Ctrl+N", "F3", "[", "c", "C", "Alt+↑", "Esc"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_configuration_keeps_its_comments(tmp_path):
    path = tmp_path / "sub" / "config.toml"
    config_file.save(path, {"theme": "nord"})
    path.write_text('# mine\ntheme = "nord"  # calm\ntop_k = 3\n\n[other]\ntheme = 1\n')
    config_file.save(path, {"theme": "pellucid-light", "temperature": 0.5})
    assert path.read_text() == '# mine\ntheme = "pellucid-light"\ntop_k = 3\n\ntemperature = 0.5\n[other]\ntheme = 1\n'
    path.write_text('theme = """\nx\n"""\n')
    with pytest.raises(UsageError, match="cannot be changed"):
        config_file.save(path, {"theme": "nord"})
    assert path.read_text().startswith('theme = """')


def test_exports_read_well_and_overwrite_nothing(tmp_path):
    say.use("en")
    branch = Branch.through([make_turn(1, "Why?\x1b[2J", "Because.\n\n```py\nx = 1\n```")])
    path = export.write(branch, str(tmp_path / "a.md"))
    text = path.read_text("utf-8")
    assert "Because." in text and "\x1b" not in text and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="exists already"):
        export.write(branch, str(path))
    rows = export.write(branch, str(tmp_path / "a.jsonl")).read_text().splitlines()
    assert len(rows) == 1 and '"turn": "T0001"' in rows[0] and "\x1b" not in rows[0]
    with pytest.raises(UsageError, match="cannot be written"):
        export.write(branch, str(tmp_path / "no" / "such" / "folder.md"))


def test_code_blocks_are_found():
    assert export.code_blocks("a\n```py\nx\n```\nb\n~~~\ny\n~~~\n```\nopen") == ["x", "y", "open"]
    assert export.code_blocks("no code") == []


def test_all_personas_are_sound(tmp_path):
    found = personas.read_all()
    assert [p.id for p in found] == ["general", "customer_service", "finance", "medical", "writing"]
    for persona in found:
        for language in ("zh", "en"):
            assert persona.name(language) and persona.about(language) and persona.system(language)
        assert persona.policy in policy.names()
    bad = tmp_path / "bad.toml"
    for text, problem in (("colour = 1", "no field"), ("[sampling]\nheat = 1", "no sampling"), ("policy = 'x'", "must have exactly")):
        bad.write_text(text)
        with pytest.raises(UsageError, match=problem):
            personas.read(bad)


# -- explanations ------------------------------------------------------------------------------------------------------


def test_kept_explanations_are_found_for_what_is_picked():
    reply = units(["a", "b", "c"])
    matrix = Attribution("ablation", "reply", ("x",), ("a", "b", "c"), ((1.0,), (2.0,), (3.0,)))
    vector = Attribution("integrated-gradients", "reply", ("x",), ("abc",), ((6.0,),))
    single = Attribution("integrated-gradients", "token 1", ("x",), ("b",), ((2.0,),))
    kept = [matrix, vector, single]
    assert find(kept, "ablation", reply, None) == (matrix, None)
    assert find(kept, "ablation", reply, 2) == (matrix, 2)
    assert find(kept, "integrated-gradients", reply, None) == (vector, None)
    assert find(kept, "integrated-gradients", reply, 1) == (single, None)
    assert find(kept, "integrated-gradients", reply, 0) is None


def test_texts_are_joined_across_tokens_and_nothing_else():
    from assistant.events import Text, Withdrawn
    from assistant.tui.generation import Ended, Generation

    token = Token(tokens_of("abcd")[0])
    events = [Text("a"), token, Text("b"), token, Withdrawn("no", ALLOW), Text("c"), Text("d")]

    class Session:
        def respond(self, request, cancel=None):
            yield from events

    generation = Generation(Session(), None)
    assert generation.join(5)
    assert generation.drain() == [Text("ab"), token, token, Withdrawn("no", ALLOW), Text("cd"), Ended()]


# -- lists and tails ---------------------------------------------------------------------------------------------------


async def test_flat_lists_look_as_textual_draws_them():
    from textual.app import App
    from textual.widgets import Markdown

    from assistant.tui.widgets.markdown import SafeMarkdown
    from tests.assistant.tui.screens import text_of

    class Theirs(SafeMarkdown):
        BLOCKS = Markdown.BLOCKS

    text = (
        "- one **two** three four five six seven eight nine\n- 天空是蓝色的，因为短波长的光散射得更多\n    - inner `code`\n\n"
        "9. nine\n10. ten\n\n    second paragraph\n11. - nested at once\n\n- x\n\n    ```\n    code\n    ```\n\n"
        "* [link](http://a.example) end\n"
    )
    shown, drawn_here = [], []
    for kind in (SafeMarkdown, Theirs):

        class Page(App):
            CSS = "MarkdownList MarkdownParagraph { margin: 0; }"

            def compose(self, kind=kind):
                yield kind(text)

        async with Page().run_test(size=(40, 40)) as pilot:
            await pilot.pause()
            shown.append(text_of(pilot.app))
            drawn_here.append((len(pilot.app.query("FlatRows")), len(pilot.app.query("MarkdownBullet"))))
    assert shown[0] == shown[1] and "nested at once" in shown[0]
    assert drawn_here[0] == (3, 1)  # all lists but the one that holds code are one widget each
    assert drawn_here[1][0] == 0 and drawn_here[1][1] > 5


async def test_a_tail_is_broken_like_the_whole_text_however_it_grows():
    from textual.app import App

    from assistant.tui.widgets.tail import STEP, Tail

    class Page(App):
        def compose(self):
            yield Tail()

    random_ = random.Random(5)
    async with Page().run_test(size=(24, 200)) as pilot:
        tail = pilot.app.query_one(Tail)
        for _ in range(60):
            tail.show("")
            text = ""
            for _ in range(random_.randint(1, 30)):
                text += random_.choice(["a", "word ", "天空，", "\n", "\n\n", "x" * 30, "\t", " - "])
                tail.show(text)
            whole = Tail()
            whole._wrapped_at, whole._text = 24, text.strip("\n")
            assert "\n".join(tail.lines).split() == text.split() or "x" * 30 in text or "，" in text
            fresh = pilot.app.query_one(Tail)
            grown = list(fresh.lines)
            fresh._open, fresh._text = (0, 0), text.strip("\n")
            fresh._wrap()
            assert fresh.lines == grown
            assert tail._room % STEP == 0 and tail._room >= len(tail.lines)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_giving_memory_back_frees_what_refers_only_to_itself(monkeypatch):
    import ctypes
    import weakref

    from assistant.tui.memory import give_back

    class Node:
        pass

    node = Node()
    node.itself = node
    seen = weakref.ref(node)
    del node
    give_back()
    assert seen() is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # another C library
    give_back()
