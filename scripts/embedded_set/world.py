"""Countries and elements: tables from permissively licensed packages, as questions and as facts.

Sources: countryinfo (MIT) for capitals, regions and codes; Babel (BSD-3-Clause; data of Unicode
CLDR, Unicode licence) for the English names of countries, currencies and languages; periodictable
(public domain) for the elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import periodictable
from babel import Locale
from babel.languages import get_official_languages
from babel.numbers import get_territory_currencies
from countryinfo import all_countries

from embedded_set.question import Question, Rng

_MIN_POPULATION = 5_000_000
_N_ELEMENTS = 92


@dataclass(frozen=True)
class Country:
    """A country by its English name."""

    name: str
    capital: str
    continent: str
    currency: str
    languages: tuple[str, ...]
    code: str


@lru_cache(maxsize=1)
def countries() -> tuple[Country, ...]:
    """Countries of more than five million people with one current currency, by name."""
    english = Locale("en")
    found = []
    for country in all_countries():
        entry = country.info()
        code = entry.get("ISO", {}).get("alpha2")
        languages = get_official_languages(code) if code else ()
        currencies = get_territory_currencies(code) if code in english.territories else ()
        complete = entry.get("capital") and entry.get("region") and languages
        if not complete or len(currencies) != 1 or entry.get("population", 0) < _MIN_POPULATION:
            continue
        found.append(
            Country(
                name=english.territories[code],
                capital=entry["capital"],
                continent=_continent(entry["region"], entry.get("subregion", "")),
                currency=english.currencies[currencies[0]],
                languages=tuple(english.languages[x] for x in languages if x in english.languages),
                code=code,
            )
        )
    return tuple(sorted(set(found), key=lambda c: c.name))


@lru_cache(maxsize=1)
def elements() -> tuple[tuple[str, str, int], ...]:
    """Name, symbol and atomic number of the first 92 elements."""
    return tuple(
        (e.name.capitalize(), e.symbol, e.number)
        for e in periodictable.elements
        if 1 <= e.number <= _N_ELEMENTS
    )


def facts() -> Iterator[dict[str, str]]:
    """The retrieval corpus: a sentence for each fact, with its topic."""
    for c in countries():
        yield {"fact": f"The capital of {c.name} is {c.capital}.", "topic": "capital"}
        yield {"fact": f"{c.name} is a country in {c.continent}.", "topic": "continent"}
        yield {"fact": f"The currency of {c.name} is the {c.currency}.", "topic": "currency"}
        spoken = " and ".join(c.languages)
        yield {"fact": f"The official language of {c.name} is {spoken}.", "topic": "language"}
        yield {"fact": f"The country code of {c.name} is {c.code}.", "topic": "country code"}
    for name, symbol, number in elements():
        yield {"fact": f"The chemical symbol of {name} is {symbol}.", "topic": "symbol"}
        yield {"fact": f"The atomic number of {name} is {number}.", "topic": "atomic number"}


def capital(rng: Rng) -> Question:
    """The capital of a country."""
    c = rng.choice(countries())
    text = rng.choice(
        (
            f"What is the capital of {c.name}?",
            f"Which city is the capital of {c.name}?",
            f"capital of {c.name}?",
            f"Tell me the capital city of {c.name}.",
            f"I'm planning a trip to {c.name}. What's the capital?",
        )
    )
    rivals = tuple(o.capital for o in countries() if o.capital != c.capital)
    return Question(text=text, answer=c.capital, grader="names", rivals=rivals)


def country_of_capital(rng: Rng) -> Question:
    """The country of a capital."""
    c = rng.choice(countries())
    text = rng.choice(
        (
            f"{c.capital} is the capital of which country?",
            f"Which country has {c.capital} as its capital?",
            f"What country is {c.capital} the capital of?",
            f"In which country is the city of {c.capital}?",
        )
    )
    rivals = tuple(o.name for o in countries() if o.name != c.name)
    return Question(text=text, answer=c.name, grader="names", rivals=rivals)


def continent(rng: Rng) -> Question:
    """The continent of a country."""
    c = rng.choice(countries())
    text = rng.choice(
        (
            f"On which continent is {c.name}?",
            f"What continent is {c.name} in?",
            f"{c.name} is in which continent?",
            f"Which continent does {c.name} belong to?",
        )
    )
    rivals = tuple(sorted({o.continent for o in countries()} - {c.continent}))
    accepted: tuple[str, ...] = ("America", "Americas") if c.continent.endswith("America") else ()
    if c.continent == "Oceania":
        accepted = ("Australia",)
    return Question(text=text, answer=c.continent, grader="names", accepted=accepted, rivals=rivals)


def currency(rng: Rng) -> Question:
    """The currency of a country."""
    c = rng.choice(countries())
    text = rng.choice(
        (
            f"What is the currency of {c.name}?",
            f"Which currency is used in {c.name}?",
            f"What money do people use in {c.name}?",
            f"I'm going to {c.name}, what currency do I need?",
        )
    )
    unit = c.currency.split()[-1]
    others = {o.currency for o in countries()} - {c.currency}
    rivals = others | {o.split()[-1] for o in others} - {unit}
    accepted = (unit, f"{unit}s")
    return Question(
        text=text,
        answer=c.currency,
        grader="names",
        accepted=accepted,
        rivals=tuple(sorted(rivals)),
    )


def language(rng: Rng) -> Question:
    """An official language of a country."""
    c = rng.choice(countries())
    text = rng.choice(
        (
            f"What is the official language of {c.name}?",
            f"Which language is official in {c.name}?",
            f"What language do they speak in {c.name}?",
            f"Name an official language of {c.name}.",
        )
    )
    rivals = {x for o in countries() for x in o.languages} - set(c.languages)
    return Question(
        text=text,
        answer=c.languages[0],
        grader="names",
        accepted=c.languages[1:],
        rivals=tuple(sorted(rivals)),
    )


def country_code(rng: Rng) -> Question:
    """The two-letter ISO 3166 code of a country."""
    c = rng.choice(countries())
    text = rng.choice(
        (
            f"What is the two-letter ISO country code of {c.name}?",
            f"ISO 3166 alpha-2 code for {c.name}?",
            f"Which two-letter country code does {c.name} have?",
            f"Give me the ISO country code for {c.name} (two letters).",
        )
    )
    rivals = tuple(o.code for o in countries() if o.code != c.code)
    return Question(text=text, answer=c.code, grader="code", rivals=rivals)


def element_symbol(rng: Rng) -> Question:
    """The symbol of an element."""
    name, symbol, _ = rng.choice(elements())
    text = rng.choice(
        (
            f"What is the chemical symbol for {name.lower()}?",
            f"What's the symbol of the element {name.lower()}?",
            f"chemical symbol of {name}?",
            f"How is {name.lower()} written in the periodic table?",
        )
    )
    rivals = tuple(s for _, s, _ in elements() if s != symbol)
    return Question(text=text, answer=symbol, grader="code", rivals=rivals)


def element_name(rng: Rng) -> Question:
    """The element of a symbol."""
    name, symbol, _ = rng.choice(elements())
    text = rng.choice(
        (
            f"Which element has the chemical symbol {symbol}?",
            f"What element does the symbol {symbol} stand for?",
            f"In chemistry, what is {symbol}?",
            f"Name the element with the symbol {symbol}.",
        )
    )
    rivals = tuple(n for n, _, _ in elements() if n != name)
    return Question(text=text, answer=name, grader="names", rivals=rivals)


def atomic_number(rng: Rng) -> Question:
    """The atomic number of an element."""
    name, _, number = rng.choice(elements())
    text = rng.choice(
        (
            f"What is the atomic number of {name.lower()}?",
            f"atomic number of {name}?",
            f"How many protons does an atom of {name.lower()} have?",
            f"Which atomic number does {name.lower()} have?",
        )
    )
    return Question(text=text, answer=str(number), grader="number")


def _continent(region: str, subregion: str) -> str:
    if region != "Americas":
        return region
    return "South America" if subregion == "South America" else "North America"
