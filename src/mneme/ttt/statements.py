"""The memory grid's prompts: short statements of invented facts, written for this project.

Each is three sentences whose order tells something (a fact, a detail, what comes of it), and names
things that no other statement names: another statement's context then holds nothing of it. With two
sentences, shuffling them in a repeated text would often give the same text, begun elsewhere.
"""

from __future__ import annotations

STATEMENTS: tuple[tuple[str, ...], ...] = (
    ("Mira keeps nine bees.", "Their hive is painted blue.", "She sells honey on Fridays."),
    ("The ferry leaves Dornach at noon.", "It carries only salt.", "By dusk it is home."),
    (
        "A clock in Velm runs backward.",
        "Nobody dares to mend it.",
        "Trains leave before they come.",
    ),
    ("Old Tarn owns the copper mill.", "His nephew grinds pepper there.", "Both sneeze."),
    ("The queen of Ister lost a glove.", "A fox found it.", "He wears it to church."),
    ("Pell wrote a song for wolves.", "They came down to listen.", "None of them sang."),
    ("Our well is forty steps deep.", "The water tastes of iron.", "Horses like it."),
    ("Captain Orlo fears the moon.", "He sails when clouds hide her.", "His crew sleeps by day."),
    ("Ruth baked a loaf of chestnuts.", "Her rival bought half.", "He claims it as his own."),
    ("There is a bridge made of glass.", "Goats refuse to cross.", "Children run over barefoot."),
    ("Lord Wick collects keys.", "One of them opens nothing.", "He loves that one most."),
    ("The tower at Brann has no door.", "Letters go up in a basket.", "Answers are thrown down."),
    ("Snow fell on Quill in June.", "Farmers lit fires in the orchard.", "Every plum was saved."),
    ("Doctor Hesk cures coughs with tea.", "The leaves grow on roofs.", "Cats guard them."),
    ("Two brothers share a violin.", "Emil plays the fast parts.", "Jonas turns the page."),
    ("The mayor lent Gorse a mule.", "It ate his hedge.", "They share the blame."),
    ("A tailor in Port Sable sews sails.", "Silk is too thin.", "He uses hemp and wax."),
    ("Nan Ferro paints doors yellow.", "Strangers find her street.", "Owls avoid it."),
    ("The hermit counts swallows.", "Last spring he saw eleven.", "Now he builds more nests."),
    ("Judge Amory never shouts.", "She rings a silver bell twice.", "Then the hall is quiet."),
)
"""Statement -> its sentences."""


def pieces(statement: tuple[str, ...]) -> list[str]:
    r"""Return the sentences of a statement as they stand in a repeated text.

    Joined, the pieces of a statement are one line that ends in a line break; tokenised one by one
    they give a text whose period is exactly one statement.

    Examples
    --------
    >>> pieces(("A is B.", "C is D."))
    ['A is B.', ' C is D.\n']
    """
    first, *rest = statement
    texts = [first, *(f" {sentence}" for sentence in rest)]
    return [*texts[:-1], texts[-1] + "\n"]
