"""Several gateway processes on one address of one machine: `wye serve --workers N`.

A parent (`parent`) holds the address and starts workers (`worker`), each a whole gateway. Budgets,
limits, versions and feedback they share through the store, as gateways on many machines do. What
one process knows alone, and a page or a scrape tells of all, they share through a folder in memory
(`board`, `summed`).

Nothing here is imported where one process serves.
"""
