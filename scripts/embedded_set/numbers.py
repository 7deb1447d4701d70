"""Sums, word problems, percentages, units, dates: questions with one number or day as answer."""

from __future__ import annotations

import calendar
import datetime

from embedded_set.question import Question, Rng

_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ivy", "Jonas")
_THINGS = ("apples", "books", "pens", "coins", "stickers", "cookies", "marbles", "tickets")


def small_sum(rng: Rng) -> Question:
    """One digit or two, plus or minus."""
    a, b = rng.randint(2, 40), rng.randint(2, 40)
    if rng.random() < 0.5:
        text = rng.choice((f"What is {a} + {b}?", f"{a} plus {b}?", f"Add {a} and {b}."))
        return _number(text, a + b)
    a, b = max(a, b) + 1, min(a, b)
    text = rng.choice((f"What is {a} - {b}?", f"{a} minus {b}?", f"Subtract {b} from {a}."))
    return _number(text, a - b)


def larger_sum(rng: Rng) -> Question:
    """Three digits, or three terms."""
    a, b, c = rng.randint(100, 999), rng.randint(100, 999), rng.randint(10, 99)
    if rng.random() < 0.5:
        text = rng.choice((f"Calculate {a} + {b}.", f"how much is {a} + {b}", f"{a} + {b} = ?"))
        return _number(text, a + b)
    text = rng.choice((f"Calculate {a} + {b} - {c}.", f"What does {a} + {b} - {c} give?"))
    return _number(text, a + b - c)


def product(rng: Rng) -> Question:
    """Multiplication up to 12 x 99."""
    a, b = rng.randint(2, 12), rng.randint(3, 99)
    text = rng.choice((f"What is {a} times {b}?", f"{a} * {b} = ?", f"Multiply {a} by {b}."))
    return _number(text, a * b)


def percentage(rng: Rng) -> Question:
    """A round share of a number."""
    share, whole = rng.choice((10, 20, 25, 50, 5, 75)), 20 * rng.randint(1, 40)
    text = rng.choice(
        (
            f"What is {share}% of {whole}?",
            f"How much is {share} percent of {whole}?",
            f"A jacket costs {whole} dollars. What is {share}% of that?",
        )
    )
    return Question(text=text, answer=f"{share * whole / 100:g}", grader="number")


def word_problem(rng: Rng) -> Question:
    """One step in words."""
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    a, b = rng.randint(3, 15), rng.randint(2, 9)
    forms = (
        (f"{name} has {a} {thing} and gets {b} more. How many {thing} now?", a + b),
        (f"{name} had {a + b} {thing} and gave away {b}. How many {thing} are left?", a),
        (f"There are {b} boxes with {a} {thing} each. How many {thing} are there in all?", a * b),
        (f"{name} shares {a * b} {thing} equally among {b} friends. How many does each get?", a),
        (f"{name} buys {b} {thing} at {a} dollars each. What does {name} pay?", a * b),
        (f"{name} reads {a} pages a day. How many pages in {b} days?", a * b),
    )
    return _number(*rng.choice(forms))


def unit(rng: Rng) -> Question:
    """From one everyday unit to another."""
    amount = rng.randint(2, 60)
    source, target, factor = rng.choice(
        (
            ("km", "m", 1000),
            ("m", "cm", 100),
            ("kg", "g", 1000),
            ("hours", "minutes", 60),
            ("minutes", "seconds", 60),
            ("days", "hours", 24),
            ("weeks", "days", 7),
            ("liters", "ml", 1000),
        )
    )
    text = rng.choice(
        (
            f"How many {target} are {amount} {source}?",
            f"Convert {amount} {source} to {target}.",
            f"{amount} {source} in {target}?",
        )
    )
    return _number(text, amount * factor)


def days_between(rng: Rng) -> Question:
    """Days from one date to another."""
    start = datetime.date(rng.randint(2015, 2029), 1, 1) + datetime.timedelta(rng.randint(0, 330))
    end = start + datetime.timedelta(rng.randint(2, 60))
    text = rng.choice(
        (
            f"How many days are there between {start} and {end}?",
            f"How many days from {start} to {end}?",
            f"My trip starts on {start} and ends on {end}. How many days is that?",
        )
    )
    return _number(text, (end - start).days)


def weekday(rng: Rng) -> Question:
    """The day of the week of a date."""
    day = datetime.date(rng.randint(1990, 2035), rng.randint(1, 12), rng.randint(1, 28))
    text = rng.choice(
        (
            f"What day of the week was {day}?",
            f"Which weekday is {day}?",
            f"I was born on {day}. What day of the week was it?",
        )
    )
    name = calendar.day_name[day.weekday()]
    rivals = tuple(d for d in calendar.day_name if d != name)
    return Question(text=text, answer=name, grader="names", rivals=rivals)


def day_after(rng: Rng) -> Question:
    """A weekday or month some steps on from another."""
    names = list(calendar.day_name) if rng.random() < 0.5 else list(calendar.month_name)[1:]
    noun = "day" if len(names) == 7 else "month"
    place, step = rng.randrange(len(names)), rng.choice((1, 1, -1, 2))
    start, name = names[place], names[(place + step) % len(names)]
    text = {
        1: rng.choice((f"Which {noun} comes after {start}?", f"What {noun} follows {start}?")),
        -1: rng.choice((f"Which {noun} comes before {start}?", f"What {noun} is before {start}?")),
        2: f"If it is {start}, which {noun} comes two {noun}s later?",
    }[step]
    lead = rng.choice(("", "Quick question: ", "Hi! ", "For my calendar: ", "Please tell me: "))
    rivals = tuple(n for n in names if n != name)
    return Question(text=lead + text, answer=name, grader="names", rivals=rivals)


def compare(rng: Rng) -> Question:
    """Which of two numbers is greater, as yes or no."""
    a, b = rng.sample(range(2, 1000), 2)
    relation, holds = rng.choice(
        (
            ("greater than", a > b),
            ("less than", a < b),
            ("bigger than", a > b),
            ("smaller than", a < b),
        )
    )
    return _verdict(f"Is {a} {relation} {b}?", holds)


def parity(rng: Rng) -> Question:
    """Even or odd, as yes or no."""
    n, word = rng.randint(2, 999), rng.choice(("even", "odd"))
    text = rng.choice((f"Is {n} an {word} number?", f"Is the number {n} {word}?"))
    return _verdict(text, (n % 2 == 0) == (word == "even"))


def _number(text: str, value: int) -> Question:
    return Question(text=text, answer=str(value), grader="number")


def _verdict(text: str, holds: bool) -> Question:
    return Question(text=text, answer="yes" if holds else "no", grader="yes_no")
