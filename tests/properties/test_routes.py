"""Our route matching finds the same routes as Flask's router."""

from django.urls.resolvers import RoutePattern
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RequestRedirect, Rule

from questlog.web.routes import RouteMatch, Routes

WORDS = st.sampled_from(["shop", "level", "boss", "3", "a.b", "x-1", "ünter"])
VARIABLES = st.sampled_from(["<a{n}>", "<int:a{n}>", "<path:a{n}>", "<any(shop, boss):a{n}>", "v<int:a{n}>"])
PATHS = (
    st.lists(WORDS | VARIABLES, min_size=1, max_size=3)
    .map(lambda parts: "/" + "/".join(part.format(n=n) for n, part in enumerate(parts)))
    .filter(lambda path: path.count("<path:") < 2)  # werkzeug gives the first the least, Django and Starlette the most
)


@given(st.lists(PATHS, min_size=1, max_size=4, unique=True), st.lists(WORDS | st.just("v7"), min_size=1, max_size=4))
@example(["/level/<a1>", "/level/boss", "/level/<int:a1>"], ["level", "boss"])
@example(["/level/<a1>", "/level/boss", "/level/<int:a1>"], ["level", "3"])
def test_an_event_is_matched_to_a_route_that_werkzeug_would_choose(rules: list[str], parts: list[str]) -> None:
    """Werkzeug may choose any of several rules that differ only in a variable's name or converter."""
    path = "/" + "/".join(parts)
    routes = Routes({f"GET {rule}": rule for rule in rules})
    router = Map([Rule(rule, endpoint=rule) for rule in rules]).bind("game.example")
    match = routes.match("GET", path)
    try:
        rule, values = router.match(path)
    except (HTTPException, RequestRedirect):
        assert match is None
        return
    assert match is not None
    single = Routes({f"GET {rule}": rule}).match("GET", path)
    assert single == RouteMatch(rule, dict(values))


def test_fixed_text_takes_precedence_over_numbers_and_numbers_over_any_text() -> None:
    rules = ["/level/<path:rest>", "/level/<name>", "/level/<int:number>", "/level/boss"]
    routes = Routes({f"GET {rule}": rule for rule in rules})
    paths = ["/level/boss", "/level/3", "/level/moat", "/level/moat/2", "/level"]
    matches = [routes.match("GET", path) for path in paths]
    assert [each and each.event for each in matches] == [rules[3], rules[2], rules[1], rules[0], None]


def test_routes_are_accepted_in_the_syntax_of_fastapi_and_django() -> None:
    routes = Routes({"POST /shop/{item}": "a", "POST /level/{n:int}": "b", "POST /page/<slug:s>/<str:t>/": "c"})
    paths = ["/shop/sword", "/level/4", "/page/a-b/c d/", "/page/a.b/c/"]
    assert [
        RouteMatch("a", {"item": "sword"}), RouteMatch("b", {"n": 4}), RouteMatch("c", {"s": "a-b", "t": "c d"}), None,
    ] == [routes.match("POST", path) for path in paths]  # fmt: skip
    assert routes.match("GET", "/shop/sword") is None


def test_a_number_of_too_many_digits_stays_text() -> None:
    digits = "9" * 5000
    assert Routes({"GET /<int:n>": "a"}).match("GET", f"/{digits}") == RouteMatch("a", {"n": digits})


@given(st.lists(WORDS, min_size=2, max_size=5))
def test_the_first_of_two_path_variables_matches_as_much_as_in_django(parts: list[str]) -> None:
    path = "/".join(parts)
    match = Routes({"GET /<path:first>/<path:second>": "event"}).match("GET", f"/{path}")
    rest, _, values = RoutePattern("<path:first>/<path:second>", is_endpoint=True).match(path)
    assert (match, rest) == (RouteMatch("event", values), "")
