"""What comes of one request: when its tokens came, how many there were, or what went wrong.

Owns the reading of a server-sent event stream, on bytes.
Law: a stream that ends without saying that it is finished has failed.
"""

from quire.bench.events import Choice, read_event
from quire.core.errors import QuireError


class Answer:
    """Times are seconds of ``time.perf_counter``. ``error`` is empty for a request that was answered to its end."""

    __slots__ = (
        "_last_chunk_s",
        "_rest",
        "chunk_gaps_s",
        "error",
        "first_s",
        "is_finished",
        "last_s",
        "num_output_tokens",
        "num_prompt_tokens",
        "queued_s",
        "start_s",
        "texts",
    )

    def __init__(self, queued_s: float, start_s: float) -> None:
        self.queued_s = queued_s
        """When it should have been sent; it waits while as many as allowed are under way."""
        self.start_s = start_s
        self.first_s = 0.0
        """The first output; 0 until there is one."""
        self.last_s = start_s
        self.chunk_gaps_s: list[float] = []
        """Times between pieces of output. A piece may hold several tokens."""
        self.num_prompt_tokens: int | None = None
        self.num_output_tokens: int | None = None
        """As the server counts them; None if it does not say."""
        self.texts: list[str] = []
        self.error = ""
        self.is_finished = False
        self._last_chunk_s = 0.0
        self._rest = b""

    @property
    def is_success(self) -> bool:
        return not self.error

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def num_chunks(self) -> int:
        """Pieces of output that came."""
        return len(self.chunk_gaps_s) + 1 if self.first_s else 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer; pieces, where the server does not count."""
        return self.num_chunks if self.num_output_tokens is None else self.num_output_tokens

    @property
    def latency_s(self) -> float:
        return self.last_s - self.start_s

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.start_s if self.first_s else 0.0

    @property
    def client_queue_time_s(self) -> float:
        return self.start_s - self.queued_s

    def feed(self, piece: bytes, now_s: float) -> None:
        """Read bytes of the body that came at ``now_s``. Raises QuireError for what is no stream of completions."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    self.is_finished = True
                elif data:
                    self._read(data, now_s)

    def end(self) -> None:
        """The body is complete. Raises QuireError if the answer is not."""
        if self.last_s == self.start_s:
            raise QuireError("the answer is not a stream of completions, or an empty one")
        if not self.is_finished:
            raise QuireError("the answer broke off before its end")
        self.first_s = self.first_s or self.last_s

    def _read(self, data: bytes, now_s: float) -> None:
        choices, usage = read_event(data)
        if usage is not None:
            self.num_prompt_tokens = usage.prompt_tokens
            self.num_output_tokens = usage.completion_tokens
        for choice in choices:
            self._take(choice, now_s)

    def _take(self, choice: Choice, now_s: float) -> None:
        """Output is text, or a token without any; not the role of a message, nor a farewell with nothing in it."""
        delta = choice.delta
        text = choice.text if delta is None else delta.content or delta.reasoning_content or delta.reasoning
        if text:
            self.texts.append(text)
        if text or (delta is None and choice.finish_reason is None):
            if self.first_s:
                self.chunk_gaps_s.append(now_s - self._last_chunk_s)
            else:
                self.first_s = now_s
            self._last_chunk_s = now_s
        self.last_s = now_s
        if choice.finish_reason is not None:
            self.is_finished = True
