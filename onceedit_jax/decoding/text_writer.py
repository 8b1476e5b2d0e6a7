"""Tokens as text that may be sent: no half characters, and nothing of what ends the answer."""

import codecs
from collections.abc import Sequence


class TextWriter:
    """Text that grows, with texts that end it.

    Attributes:
      stopped: whether one of these texts has come; it and what follows are left out.
    """

    def __init__(self, stops: Sequence[str] = (), *, strip: bool = False) -> None:
        """Begin without text.

        Args:
          stops: texts that end it.
          strip: leave out blanks at the beginning.
        """
        self.stopped: bool = False
        self._stops, self._strip = tuple(stops), strip
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # may be the beginning of a stop

    def add(self, data: bytes, *, final: bool = False) -> str:
        """Add bytes, and take the text that is certain by now.

        Args:
          data: the bytes.
          final: whether they are the last ones; then nothing is held back.
        """
        if self.stopped:
            return ""
        self._held += self._decoder.decode(data, final)
        if self._strip:
            self._held = self._held.lstrip()
            self._strip = not self._held
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            certain, self._held = self._held[: min(places)], ""
            return certain
        keep = 0 if final else self._overlap()
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return certain

    def _overlap(self) -> int:
        """How many of the last characters may be the beginning of a stop."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
