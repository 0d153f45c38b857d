"""PagePool: which KV pages are free, who shares them, and which can be found again by content.

Owns page numbers and reference counts. Touches no tensor and knows no request.

A page is in exactly one of three states: free (nothing worth keeping), held (count > 0), or idle
(count 0, content still findable by hash; the oldest idle page is taken when free ones run out).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class PagePool:
    """Pages numbered 0 to n_pages - 1; not thread-safe, the engine's thread owns it."""

    def __init__(self, n_pages: int, page_tokens: int) -> None:
        self.n_pages = n_pages
        self.page_tokens = page_tokens
        self._free = list(range(n_pages - 1, -1, -1))
        self._holders = [0] * n_pages
        self._hash_of: list[bytes | None] = [None] * n_pages
        self._page_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def n_free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def n_idle(self) -> int:
        """Pages nobody holds whose content may still be reused."""
        return len(self._idle)

    @property
    def n_held(self) -> int:
        """Pages that at least one sequence holds."""
        return self.n_pages - len(self._free) - len(self._idle)

    def pages_for(self, tokens: int) -> int:
        """Return how many pages that many tokens take."""
        return -(-tokens // self.page_tokens)

    def allocate(self) -> int:
        """Return a page held once, with no content to its name.

        Raises:
            IndexError: when every page is held; admission by worst case never lets it come to that.
        """
        if self._free:
            page = self._free.pop()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
        else:
            raise IndexError("every KV page is held")
        self._holders[page] = 1
        return page

    def reuse(self, hashes: Sequence[bytes]) -> list[int]:
        """Return the held-once-more pages of the longest known run of these hashes."""
        pages = []
        for content in hashes:
            page = self._page_of.get(content)
            if page is None:
                break
            if self._holders[page] == 0:
                del self._idle[page]
            self._holders[page] += 1
            pages.append(page)
        return pages

    def publish(self, page: int, content: bytes) -> None:
        """Make a full page findable; an equal page that is known already stays the known one."""
        if content not in self._page_of and self._hash_of[page] is None:
            self._page_of[content] = page
            self._hash_of[page] = content

    def release(self, pages: Iterable[int]) -> None:
        """Let go of pages once each; the last holder leaves them idle or free.

        Later pages go idle first, so that the beginning of a prompt outlives its end.
        """
        for page in reversed(list(pages)):
            assert self._holders[page] > 0, "a page was released twice"
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if self._hash_of[page] is None:
                self._free.append(page)
            else:
                self._idle[page] = None

    def clear_idle(self) -> int:
        """Forget every idle page; return how many became free."""
        pages = list(self._idle)
        self._idle.clear()
        for page in pages:
            self._forget(page)
            self._free.append(page)
        return len(pages)

    def _forget(self, page: int) -> None:
        content = self._hash_of[page]
        if content is not None:
            del self._page_of[content]
            self._hash_of[page] = None
