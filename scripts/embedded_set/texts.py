"""Editing and reading text: reverse, upper case, letters, extraction, sorting."""

from __future__ import annotations

from embedded_set.question import Question, Rng

_WORDS = """\
apple bridge candle dolphin engine flower garden hammer island jacket kitchen lemon mirror
needle orange pencil quilt rabbit silver table umbrella violin window yellow zebra anchor
basket cotton desert eagle forest guitar honey insect jungle kettle ladder market nature
ocean planet queen river summer tunnel valley winter camera doctor finger ghost helmet igloo
jewel knife lion monkey night onion paper rocket spoon tiger uncle village whale carpet
dragon feather grape house koala lamp moon nest owl piano rain snow tree van wolf bread
chair door fish
"""
_ADJECTIVES = ("red", "old", "small", "quiet", "happy", "cold", "bright", "brave", "quick", "soft")
_OPPOSITES_TEXT = """\
hot/cold big/small fast/slow up/down happy/sad light/dark open/closed old/young rich/poor
strong/weak hard/soft early/late full/empty high/low long/short wet/dry clean/dirty near/far
thick/thin left/right true/false good/bad day/night love/hate win/lose buy/sell push/pull
start/stop begin/end
"""
_PLURALS_TEXT = """\
child/children mouse/mice foot/feet tooth/teeth goose/geese man/men woman/women
person/people leaf/leaves wolf/wolves knife/knives city/cities baby/babies box/boxes
bus/buses cherry/cherries potato/potatoes watch/watches dog/dogs tree/trees book/books
story/stories country/countries party/parties brush/brushes fox/foxes half/halves
shelf/shelves
"""
_PAST_TEXT = """\
go/went see/saw eat/ate run/ran take/took give/gave write/wrote swim/swam drive/drove
sing/sang think/thought buy/bought bring/brought catch/caught teach/taught fly/flew
drink/drank break/broke speak/spoke know/knew grow/grew begin/began sleep/slept keep/kept
leave/left find/found make/made come/came
"""
WORDS = tuple(_WORDS.split())
_OPPOSITES, _PLURALS, _PAST = (
    tuple(pair.split("/") for pair in text.split())
    for text in (_OPPOSITES_TEXT, _PLURALS_TEXT, _PAST_TEXT)
)
_FIRST = ("anna", "ben", "carla", "david", "emma", "felix", "grace", "hugo", "ivy", "jonas", "lena")
_LAST = ("smith", "lopez", "chen", "novak", "rossi", "khan", "meyer", "silva", "jones", "dubois")
_HOSTS = ("example.com", "example.org", "example.net", "mail.example.com", "shop.example.org")


def reverse_word(rng: Rng) -> Question:
    """A word letter by letter from the back."""
    word = rng.choice(WORDS)
    text = rng.choice(
        (
            f"Reverse the word {word}.",
            f'Write "{word}" backwards.',
            f"Spell {word} backward.",
            f"What is {word} spelled in reverse?",
        )
    )
    return Question(text=text, answer=word[::-1], grader="exact")


def upper_case(rng: Rng) -> Question:
    """A phrase in capital letters."""
    phrase = " ".join((rng.choice(_ADJECTIVES), rng.choice(WORDS)))
    text = rng.choice(
        (
            f"Write {phrase} in uppercase.",
            f'Convert "{phrase}" to capital letters.',
            f"Put this in all caps: {phrase}",
            f"uppercase: {phrase}",
        )
    )
    return Question(text=text, answer=phrase.upper(), grader="exact")


def end_letter(rng: Rng) -> Question:
    """The first or last letter of a word."""
    word, which = rng.choice(WORDS), rng.choice(("first", "last"))
    text = rng.choice(
        (
            f"What is the {which} letter of {word}?",
            f"Which letter is {which} in the word {word}?",
            f'Give me the {which} letter of "{word}".',
        )
    )
    return Question(text=text, answer=word[0] if which == "first" else word[-1], grader="letter")


def count_letter(rng: Rng) -> Question:
    """How often a letter occurs in a word."""
    word = rng.choice(WORDS)
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice("aeiost")
    text = rng.choice(
        (
            f"How many times does the letter {letter} appear in {word}?",
            f"How many {letter}'s are in {word}?",
            f'Count the letter {letter} in "{word}".',
        )
    )
    return Question(text=text, answer=str(word.count(letter)), grader="number")


def word_length(rng: Rng) -> Question:
    """How many letters a word has."""
    word = rng.choice(WORDS)
    text = rng.choice(
        (
            f"How many letters are in the word {word}?",
            f"How long is the word {word}, in letters?",
            f'Number of letters in "{word}"?',
        )
    )
    return Question(text=text, answer=str(len(word)), grader="number")


def extract_email(rng: Rng) -> Question:
    """The address in a sentence."""
    first, last, host = rng.choice(_FIRST), rng.choice(_LAST), rng.choice(_HOSTS)
    mail = f"{first}.{last}@{host}"
    sentence = rng.choice(
        (
            f"Please write to {mail} before Friday.",
            f"{first.capitalize()} can be reached at {mail} or by phone.",
            f"Send the invoice to {mail}, thanks!",
            f"My new address is {mail}, the old one is closed.",
        )
    )
    text = rng.choice(
        (
            f"Extract the email address: {sentence}",
            f"Which email address is in this text? {sentence}",
            f"Find the email in: {sentence}",
        )
    )
    return Question(text=text, answer=mail, grader="exact")


def extract_number(rng: Rng) -> Question:
    """The order, room or invoice number in a sentence."""
    number, what = rng.randint(1000, 99999), rng.choice(("order", "invoice", "ticket"))
    day = rng.randint(2, 28)
    sentence = rng.choice(
        (
            f"Hello, my {what} {number} from May {day} has not arrived.",
            f"The {what} number is {number} and it was sent {day} days ago.",
            f"I paid {day} dollars for {what} {number} last week.",
        )
    )
    text = rng.choice(
        (f"What is the {what} number? {sentence}", f"Extract the {what} number: {sentence}")
    )
    return Question(text=text, answer=str(number), grader="number")


def sort_words(rng: Rng) -> Question:
    """Three words by the alphabet."""
    words = rng.sample(WORDS, 3)
    listed = ", ".join(words)
    text = rng.choice(
        (
            f"Sort these words alphabetically: {listed}",
            f"Put in alphabetical order: {listed}",
            f"Order {listed} from A to Z.",
        )
    )
    return Question(text=text, answer=", ".join(sorted(words)), grader="whole")


def opposite(rng: Rng) -> Question:
    """The opposite of a common word."""
    pair = rng.choice(_OPPOSITES)
    asked, answer = rng.sample(pair, 2)
    text = rng.choice(
        (
            f"What is the opposite of {asked}?",
            f'Give me an antonym of "{asked}".',
            f"opposite of {asked}?",
            f"Which word means the opposite of {asked}?",
        )
    )
    accepted = {"closed": ("close", "shut"), "sad": ("unhappy",), "end": ("finish", "stop")}
    return Question(text=text, answer=answer, grader="names", accepted=accepted.get(answer, ()))


def inflection(rng: Rng) -> Question:
    """The plural of a noun or the past tense of a verb."""
    pairs, form = rng.choice(((_PLURALS, "plural"), (_PAST, "past tense")))
    asked, answer = rng.choice(pairs)
    text = rng.choice(
        (
            f"What is the {form} of {asked}?",
            f'What is the {form} of the word "{asked}"?',
            f"{form} of {asked}?",
            f"How do you write {asked} in the {form}?",
        )
    )
    return Question(text=text, answer=answer, grader="names")


def pick_kind(rng: Rng) -> Question:
    """Which of three words is an animal, a fruit, ...: the model's own sense of words."""
    groups = {
        "an animal": ("dolphin", "rabbit", "tiger", "monkey", "whale", "zebra", "koala", "wolf"),
        "a fruit": ("apple", "lemon", "orange", "grape", "banana", "cherry", "mango", "peach"),
        "a color": ("yellow", "purple", "green", "blue", "brown", "white", "black", "pink"),
        "a season": ("summer", "winter", "spring", "autumn"),
        "a body part": ("finger", "shoulder", "knee", "elbow", "ankle", "nose"),
        "a vehicle": ("truck", "bicycle", "train", "bus", "tractor", "airplane"),
    }
    kind = rng.choice(sorted(groups))
    right = rng.choice(groups[kind])
    others = [rng.choice(groups[k]) for k in rng.sample(sorted(set(groups) - {kind}), 2)]
    words = rng.sample([right, *others], 3)
    listed = f"{words[0]}, {words[1]} or {words[2]}"
    text = rng.choice((f"Which one is {kind}: {listed}?", f"Which of these is {kind}: {listed}?"))
    return Question(text=text, answer=right, grader="names", rivals=tuple(others))
