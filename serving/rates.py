"""How fast somebody may ask: leaky buckets with a debt, bounded in memory whatever names callers invent.

One number a bucket (the moment at which it is empty again; GCRA, ITU-T I.371), so the answer to "when may I come again" is exact and a hit
costs a microsecond. What a request really costs (rows) is often known only afterwards: a request is let in while its bucket has room, and pays
in full, so somebody at 100 rows/s who sends 300 at once waits three seconds. The library ``limits`` was measured and not taken: its moving
window stores one object a unit (0.5 ms for the 62,000 bytes of one spectrum), its counters refuse for ever what is larger than the limit, its
memory has no bound but time, and it starts a thread every 10 ms.
"""

from collections import OrderedDict
from collections.abc import Hashable

BURST_SECONDS = 2.0
"""Somebody who has been quiet may use the units of this many seconds at once."""
MOST_BUCKETS = 10_000
"""Beyond it the longest unused bucket is forgotten; a forgotten bucket is an empty one."""
_ROUNDING_SECONDS = 1e-5


class Rates:
    """Buckets by key. Not for several threads at once."""

    def __init__(self, *, most: int = MOST_BUCKETS) -> None:
        """Hold at most ``most`` buckets."""
        self._empty_at: OrderedDict[Hashable, float] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._empty_at)

    def wait(self, key: Hashable, now: float, *, burst: float = BURST_SECONDS) -> float:
        """Return the seconds until the bucket of ``key`` lets somebody in; 0 when it does now. Changes nothing."""
        waits = self._empty_at.get(key, 0.0) - now - burst
        return waits if waits > _ROUNDING_SECONDS else 0.0

    def charge(self, key: Hashable, units: float, *, rate: float, now: float) -> None:
        """Put ``units`` into the bucket of ``key``, which runs out at ``rate`` units a second."""
        self._empty_at[key] = max(now, self._empty_at.get(key, 0.0)) + units / rate
        self._empty_at.move_to_end(key)
        if len(self._empty_at) > self._most:
            self._empty_at.popitem(last=False)

    def take(self, key: Hashable, units: float, *, rate: float, now: float, burst: float = BURST_SECONDS) -> float:
        """Charge ``units`` and return 0 when there is room, else return the seconds to wait and charge nothing.

        There is room while what is in the bucket runs out within ``burst`` seconds, at least one unit's time: a rate of one in ten seconds
        lets one in.
        """
        waits = self.wait(key, now, burst=max(0.0, burst - 1 / rate))
        if waits <= 0:
            self.charge(key, units, rate=rate, now=now)
        return waits
