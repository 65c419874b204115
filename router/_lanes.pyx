# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a lane asks for with every object, natively: whose turn it is, whether there is memory for it, and what is in
flight.

``delivery.waiting``, ``delivery.memory``, ``delivery.stock`` and ``delivery.concurrency`` say what each thing is for.
"""

from collections import OrderedDict, deque

from router.model import Priority

cdef int PRIORITIES = len(Priority)


cdef class Waiting:
    """What waits in a lane, in the order in which it will leave."""

    # A queue for each priority.
    cdef tuple _late
    cdef tuple _fresh
    cdef bint _late_next
    cdef readonly Py_ssize_t late
    cdef readonly Py_ssize_t fresh

    def __init__(self):
        self._late = tuple([deque() for _ in range(PRIORITIES)])
        self._fresh = tuple([deque() for _ in range(PRIORITIES)])
        self._late_next = True

    def __len__(self):
        return self.late + self.fresh

    def __iter__(self):
        """By priority, what is late first; roughly as they will leave."""
        for late, fresh in zip(self._late, self._fresh):
            yield from late
            yield from fresh

    cdef object _queue_of(self, delivery):
        cdef Py_ssize_t priority = delivery.priority
        if not 0 <= priority < PRIORITIES:
            raise IndexError(priority)
        return (self._late if delivery.late else self._fresh)[priority]

    cdef _count(self, bint is_late, Py_ssize_t change):
        if is_late:
            self.late += change
        else:
            self.fresh += change

    cpdef put(self, delivery):
        """Behind its like."""
        self._queue_of(delivery).append(delivery)
        self._count(delivery.late, 1)

    cpdef put_back(self, delivery):
        """Before its like."""
        self._queue_of(delivery).appendleft(delivery)
        self._count(delivery.late, 1)

    cdef object _find(self, not_yet):
        """The queue whose turn it is; None: nothing waits, or what may leave next is among ``not_yet``."""
        cdef Py_ssize_t priority
        cdef object late, fresh, first, second
        if not self.late + self.fresh:
            return None
        for priority in range(PRIORITIES):
            late, fresh = self._late[priority], self._fresh[priority]
            if not late and not fresh:
                continue
            first, second = (late, fresh) if self._late_next else (fresh, late)
            if first and (not not_yet or first[0].id not in not_yet):
                return first
            if second and (not not_yet or second[0].id not in not_yet):
                return second
            return None
        return None

    def next(self, not_yet):
        """Whose turn it is; it stays until ``take``. None: nothing waits, or what may leave next is among ``not_yet``
        (ids)."""
        cdef object queue = self._find(not_yet)
        return None if queue is None else queue[0]

    def take(self, delivery):
        """What ``next`` gave leaves."""
        self._take(self._queue_of(delivery))

    cdef object _take(self, queue):
        """The first of a queue leaves."""
        cdef object delivery = queue.popleft()
        cdef bint is_late = delivery.late
        self._count(is_late, -1)
        self._late_next = not is_late
        return delivery

    cpdef remove(self, delivery):
        """From wherever it stands; False: it is not here."""
        cdef object queue = self._queue_of(delivery)
        if delivery not in queue:
            return False
        queue.remove(delivery)
        self._count(delivery.late, -1)
        return True

    def age(self):
        """All that waits is late from now on, behind what was before."""
        for late, fresh in zip(self._late, self._fresh):
            for delivery in fresh:
                delivery.late = True
            late.extend(fresh)
            fresh.clear()
        self.late += self.fresh
        self.fresh = 0


cdef class Budget:
    """A count with a limit; whoever does not get a place reads the spool."""

    cdef public long long limit
    cdef readonly long long used
    cdef list _shares

    def __init__(self, long long limit):
        self.limit = limit
        self._shares = []

    def take(self, long long size):
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, long long size):
        self.used -= size

    def share(self, let_go):
        """One more among which the limit is divided.

        Args:
            let_go: Gives back (``Share.give_back``) something of what the share keeps; False: there is nothing that
            could be spared.
        """
        cdef Share share = Share.__new__(Share)
        share._budget = self
        share._let_go = let_go
        self._shares.append(share)
        return share

    cdef long long _part(self):
        return self.limit // <long long>len(self._shares)

    cdef bint _make_room(self, long long size) except -1:
        """At the cost of those that keep more than their part, the most first."""
        cdef Share share
        cdef long long part = self._part()
        while self.used + size > self.limit:
            for share in sorted(self._shares, key=_used, reverse=True):
                if share.used <= part:
                    return False
                if share._let_go():
                    break
            else:
                return False
        return True


cdef class Share:
    """What one lane keeps."""

    cdef Budget _budget
    cdef object _let_go
    cdef readonly long long used

    @property
    def part(self):
        """Bytes that each share has for itself."""
        return self._budget._part()

    cpdef bint take(self, long long size) except -1:
        """For what has just come: a place in our own part, or one that is free."""
        cdef Budget budget = self._budget
        if budget.used + size > budget.limit and (
            self.used + size > budget._part() or not budget._make_room(size)
        ):
            return False
        self.used += size
        budget.used += size
        return True

    cpdef bint take_ahead(self, long long size) except -1:
        """For what is read from the disk before it is sent: beyond our part only while half of all is free, so that
        nothing is read and let go in turns."""
        cdef Budget budget = self._budget
        if self.used + size > budget._part() and budget.used + size > budget.limit // 2:
            return False
        return self.take(size)

    cpdef give_back(self, long long size):
        self.used -= size
        self._budget.used -= size


def _used(Share share):
    return share.used


cdef class Stock:
    """What one lane holds, and its bytes in memory.

    Args:
        budget: Shared with the other lanes.
    """

    cdef readonly Waiting waiting
    # (since when, delivery) of what must leave alone.
    cdef readonly object suspects
    cdef readonly Share memory
    # Deliveries, and their bytes in memory.
    cdef readonly Py_ssize_t in_flight
    cdef readonly long long flying
    # Something that waits may not be in memory.
    cdef public bint unread
    # What waits and is in memory, by id, in the order in which it will leave.
    cdef object _kept

    def __init__(self, Budget budget not None):
        self.waiting = Waiting()
        self.suspects = deque()
        self.memory = budget.share(self.let_go)
        self._kept = OrderedDict()

    def __len__(self):
        """Deliveries that wait."""
        return self.waiting.late + self.waiting.fresh + len(self.suspects)

    def afford(self, delivery):
        """What has just come stays in memory if there is room."""
        if delivery.chunks is not None and not self.memory.take(delivery.instance.size):
            delivery.chunks = None

    def put(self, delivery):
        """It waits, behind its like."""
        self.waiting.put(delivery)
        if delivery.chunks is None:
            self.unread = True
        else:
            self._kept[delivery.id] = delivery

    def put_back(self, delivery):
        """It was in flight, and is the next again."""
        self.land(delivery)
        if delivery.chunks is None:
            self.unread = True
        self.waiting.put_back(delivery)
        self.keep_next(delivery)

    def next(self, bint alone, not_yet):
        """Whose turn it is leaves; None: nobody may.

        Args:
            alone: Nothing else is in flight where it goes.
            not_yet: Ids of what is being read.
        """
        cdef Waiting waiting = self.waiting
        cdef object delivery, queue = waiting._find(not_yet)
        cdef long long size = 0
        if queue is None:
            return None
        delivery = queue[0]
        if delivery.chunks is not None:
            size = delivery.instance.size
            if not alone and self.flying + size > self.memory._budget._part():
                return None  # an answer makes room
            self._kept.pop(delivery.id, None)
        waiting._take(queue)
        self.in_flight += 1
        self.flying += size
        return delivery

    def take_off(self, delivery):
        """It is in flight from now on."""
        self.in_flight += 1
        if delivery.chunks is not None:
            self._kept.pop(delivery.id, None)
            self.flying += <long long>delivery.instance.size

    cpdef land(self, delivery):
        """It is not in flight any more."""
        self.in_flight -= 1
        if delivery.chunks is not None:
            self.flying -= <long long>delivery.instance.size

    def adopted(self):
        """What was sent before it had arrived whole is in flight; nothing of it is in memory."""
        self.in_flight += 1

    def leave(self, delivery):
        """It was in flight, and is settled."""
        cdef long long size
        self.in_flight -= 1
        if delivery.chunks is not None:
            size = delivery.instance.size
            delivery.chunks = None
            self.flying -= size
            self.memory.give_back(size)

    def count_anew(self, flying, long long loading=0):
        """What is in flight, and in memory, whatever was counted; so many bytes of it are being read."""
        cdef list waiting = [*self.waiting, *[delivery for _, delivery in self.suspects]]
        self.in_flight = len(flying)
        self.flying = sum([delivery.instance.size for delivery in flying if delivery.chunks is not None])
        loading += self.flying + sum([delivery.instance.size for delivery in waiting if delivery.chunks is not None])
        self.memory.give_back(self.memory.used - loading)

    def take_ahead(self, delivery):
        """Memory for what will soon be sent; it may take the place of what will be sent later."""
        if self.memory.take_ahead(delivery.instance.size):
            return True
        last = next(reversed(self._kept.values()), None)
        if last is None or (last.priority, last.id) <= (delivery.priority, delivery.id):
            return False
        self.let_go()
        return self.memory.take_ahead(delivery.instance.size)

    cpdef keep_next(self, delivery):
        """It waits, and is the next to leave."""
        if delivery.chunks is not None:
            self._kept[delivery.id] = delivery
            self._kept.move_to_end(delivery.id, last=False)

    def let_go(self):
        """Give up the memory of what will leave last: it is read from the spool then. False: nothing waits in memory."""
        if not self._kept:
            return False
        last = self._kept.popitem()[1]
        if last.chunks is not None:
            last.chunks = None
            self.memory.give_back(last.instance.size)
        self.unread = True
        return True


cdef class Concurrency:
    """How many associations a destination may have now."""

    cdef readonly long limit
    cdef readonly long allowed
    cdef long _successes

    def __init__(self, long limit):
        self.limit = limit
        self.allowed = 1

    def succeeded(self):
        if self.allowed >= self.limit:
            return
        self._successes += 1
        if self._successes >= self.allowed:
            self.allowed += 1
            self._successes = 0

    def refused_another(self, long have):
        """The destination did not want one more than the ``have`` that work: not a failure, but a limit for now."""
        self.allowed = max(1, have)
        self._successes = -100 * self.allowed  # so many successes before it is asked for more again

    def failed(self):
        self.allowed = 0
        self._successes = 0

    def probe(self):
        self.allowed = 1
        self._successes = 0
