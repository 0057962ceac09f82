"""Make HTML of templates: every value is escaped, every page carries its session's CSRF token."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from dnnflow.show.wording import duration, size_in_words
from dnnflow.web.contract.problems import ProblemDetails
from dnnflow.web.guard.sessions import CSRF_FIELD, csrf_token, keep_session, sessions_of
from dnnflow.web.pages.assets import address

SHORT = 40
"""Characters of a cell's text."""


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the templates with the filters that they use."""
    made = Environment(
        loader=PackageLoader("dnnflow.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "size": size_in_words, "moment": moment_in_words, "fixed": fixed, "rate": rate_in_words,
        "duration": duration_in_words, "number": number_in_words, "shortened": shortened,
    }  # fmt: skip
    made.globals["asset"] = address
    return made


def page(request: Request, template: str, *, code: int = 200, **values: Any) -> Response:
    """Return a page as a response; `title` and, for the menu, `place` are among the values."""
    token = csrf_token(request)
    field = Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, token)
    sessions = sessions_of(request)
    logged_in = sessions.needs_login and sessions.is_valid(request.state.session, logged_in=True)
    context = {"place": "", **values, "csrf": token, "csrf_field": field, "logged_in": logged_in}
    text = environment().get_template(template).render(context)
    return keep_session(request, HTMLResponse(text, status_code=code))


def fragment(template: str, **values: Any) -> Response:
    """Return a part of a page that a script puts in its place."""
    return HTMLResponse(environment().get_template(template).render(values))


def problem_page(request: Request, problem: ProblemDetails) -> Response:
    """Return a page that says what was refused and what helps."""
    remedy = problem.remedy or ""
    rule = problem.detail.removesuffix(f"; {remedy}") if remedy else problem.detail
    return page(
        request, "error.html", code=problem.status, title=problem.title, rule=_sentence(rule),
        remedy=_sentence(remedy),
    )  # fmt: skip


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!')) else '.'}" if text else ""


def moment_in_words(text: str) -> str:
    """Return a time in UTC to the minute."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return text


def fixed(value: float | None, digits: int = 4) -> str:
    """Return a measure with a fixed number of digits."""
    return "–" if value is None else f"{value:.{digits}f}"


def rate_in_words(rate: float | None) -> str:
    """Return trials a second, or a minute where they are few."""
    if not rate:
        return "–"
    return f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"


def duration_in_words(seconds_s: float | None) -> str:
    """Return a duration, e.g. `3m05s`."""
    return "–" if seconds_s is None else duration(seconds_s)


def number_in_words(value: float | None) -> str:
    """Return a number as short as it can be told."""
    return "–" if value is None else f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"


def shortened(text: object) -> str:
    """Return a text that fits a cell."""
    whole = str(text)
    return whole if len(whole) <= SHORT else f"{whole[: SHORT - 1]}…"
