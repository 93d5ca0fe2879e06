"""How quickly uploads have to come, by a clock that the test moves; and whose pages may change something."""

import asyncio

import pytest
from aiohttp.test_utils import make_mocked_request


@pytest.fixture
def pace(comfy):
    from krona_pack.nodes.server.routes import pace

    return pace


class Clock:
    """Stands still until it is told."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


async def never():
    await asyncio.Event().wait()


def refusal(coroutine):
    from krona_pack.nodes.server.routes.answers import Refused

    with pytest.raises(Refused) as refused:
        asyncio.run(coroutine)
    return refused.value.status, str(refused.value)


def test_what_comes_more_slowly_than_the_least_rate_is_refused(pace):
    async def send(clock, seconds, size):
        with pace.Places(1, clock).one(10**9) as place:
            for _ in range(100):

                async def read():
                    clock.at += seconds
                    return b"x" * size

                await place.next(read)

    asyncio.run(send(Clock(), 1.0, pace.LEAST_RATE))
    asyncio.run(send(Clock(), 0.1, pace.LEAST_RATE // 10))
    status, message = refusal(send(Clock(), 1.0, pace.LEAST_RATE // 2))
    assert status == 408
    assert "a second are needed" in message


def test_no_upload_lasts_longer_than_the_whole_time_however_quick_it_is(pace):
    async def send(clock):
        with pace.Places(1, clock).one(10**12) as place:
            while True:

                async def read():
                    clock.at += 60.0
                    return b"x" * 60 * pace.LEAST_RATE

                await place.next(read)

    clock = Clock()
    assert refusal(send(clock))[0] == 408
    assert pace.LONGEST <= clock.at <= pace.LONGEST + 60


def test_the_one_that_has_been_idle_for_longest_gives_up_its_place_and_no_busy_one_does(pace):
    from krona_pack.nodes.server.routes.answers import Refused

    async def story():
        clock, refused_with = Clock(), {}
        places = pace.Places(2, clock)

        async def idle(name):
            with places.one(5) as place:
                try:
                    await place.next(never)
                except Refused as error:
                    refused_with[name] = error.status

        async def rest():
            for _ in range(5):
                await asyncio.sleep(0)

        first = asyncio.ensure_future(idle("first"))
        await rest()
        clock.at = 1.0
        second = asyncio.ensure_future(idle("second"))
        await rest()
        with pytest.raises(Refused) as refused, places.one(1):
            pass
        assert refused.value.status == 429
        assert places.announced() == 10
        clock.at = 1.0 + pace.SECONDS_UNTIL_IDLE
        with places.one(7):
            await rest()
            assert refused_with == {"first": 408}
            assert places.announced() == 12
            with places.one(1):
                await rest()
                assert refused_with == {"first": 408, "second": 408}
                with pytest.raises(Refused), places.one(1):  # these two wait for nothing: they are at work
                    pass
        assert places.announced() == 0
        await asyncio.gather(first, second)

    asyncio.run(story())


def test_a_server_that_ends_is_not_mistaken_for_a_place_that_is_given_up(pace):
    async def story():
        async def wait():
            with pace.Places(1).one(5) as place:
                await place.next(never)

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


OPEN, LOCAL = "0.0.0.0,::", "127.0.0.1"
PAGES = [
    # listens on, Host, Origin, allowed
    (LOCAL, "127.0.0.1:8188", None, True),
    (LOCAL, "127.0.0.1:8188", "http://127.0.0.1:8188", True),
    (LOCAL, "localhost:8188", "http://localhost:8188", True),
    (LOCAL, "[::1]:8188", "http://[::1]:8188", True),
    (LOCAL, "127.0.0.1:8188", "http://localhost:8188", False),
    (LOCAL, "127.0.0.1:8188", "http://127.0.0.1:3000", False),
    (LOCAL, "evil.example", "http://evil.example", False),
    (LOCAL, "evil.example", None, False),
    (LOCAL, "known.example", "https://known.example", True),
    (LOCAL, "127.0.0.1:8188", "https://known.example", True),
    (LOCAL, "127.0.0.1:8188", "null", False),
    (OPEN, "192.168.1.5:8188", "http://192.168.1.5:8188", True),
    (OPEN, "workshop.local:8188", "http://workshop.local:8188", True),
    (OPEN, "workshop:8188", "http://workshop:8188", True),
    (OPEN, "comfy.example", "https://comfy.example", True),
    (OPEN, "192.168.1.5:8188", None, True),
    (OPEN, "192.168.1.5:8188", "http://evil.example", False),
    (OPEN, "192.168.1.5:8188", "http://192.168.1.6:8188", False),
    (OPEN, "192.168.1.5:8188", "null", False),
    ("127.0.0.1,192.168.1.5", "workshop:8188", "http://workshop:8188", True),
]


@pytest.mark.parametrize(("listen", "host", "origin", "allowed"), PAGES)
def test_whose_page_may_change_something(comfy, monkeypatch, listen, host, origin, allowed):
    import comfy.cli_args
    from krona_pack.nodes.server.routes.answers import Refused
    from krona_pack.nodes.server.routes.origin import require_a_page_of_ours

    monkeypatch.setattr(comfy.cli_args.args, "listen", listen)
    monkeypatch.setenv("KRONA_HOSTS", "Known.example, other.example")
    headers = {"Host": host, **({"Origin": origin} if origin else {})}
    request = make_mocked_request("POST", "/krona/adapters", headers)
    if allowed:
        require_a_page_of_ours(request)
        return
    with pytest.raises(Refused, match="may change nothing here") as refused:
        require_a_page_of_ours(request)
    assert refused.value.status == 403
    assert "KRONA_HOSTS" in str(refused.value)


@pytest.mark.parametrize(
    ("cors", "allowed"), [(None, False), ("*", True), ("http://evil.example", True), ("http://other.example", False)]
)
def test_what_the_owner_has_opened_to_other_sites_is_open(comfy, monkeypatch, cors, allowed):
    import comfy.cli_args
    from krona_pack.nodes.server.routes.answers import Refused
    from krona_pack.nodes.server.routes.origin import require_a_page_of_ours

    monkeypatch.setattr(comfy.cli_args.args, "enable_cors_header", cors)
    headers = {"Host": "127.0.0.1:8188", "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    request = make_mocked_request("POST", "/krona/adapters", headers)
    if allowed:
        require_a_page_of_ours(request)
    else:
        with pytest.raises(Refused):
            require_a_page_of_ours(request)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/a/robot.safetensors: This is no adapter.", "robot.safetensors: This is no adapter."),
        ("C:\\Users\\Anna\\x.safetensors is damaged.", "x.safetensors is damaged."),
        ("\\\\server\\share\\x.png, ~/pictures/y.png and /etc", "x.png, y.png and etc"),
        ("a and/or b, 1/2, http://a.example/b, to_q/to_k, 3 / 4", "a and/or b, 1/2, http://a.example/b, to_q/to_k, 3 / 4"),
        ("'/a/b': no", "'b': no"),
    ],
)
def test_texts_for_others_have_no_folders_of_this_computer(comfy, text, expected):
    from krona_pack.nodes.server.public import without_folders

    assert without_folders(text) == expected


def test_folders_of_the_host_may_have_blanks_in_their_names(comfy, monkeypatch, tmp_path):
    import folder_paths
    from krona_pack.nodes.server.public import without_folders

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "my models"))
    assert without_folders(f"{tmp_path}/my models/krona/a b.safetensors: no") == "krona/a b.safetensors: no"
