"""Whether facts told once stay in the context of a small model through many folds.

    python -m benchmarks.memory.facts [--conversations 40] [--turns 30] [--window 500]

Synthetic conversations in English, Hindi, Hinglish and Tamil: five facts each, told among small
talk; two are changed later, one is deleted (its item stands redacted), one is inside a tool result.
After the last turn each fact that is left is asked for, and counts as kept when its current value
stands in the context. Values that stand in no item count as invented. `folds` is how often the tail
moved on the way, at least. No model is involved.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from memory import Conversation, Item, MemoryConfig, Message
from memory.building import ContextRequest, context_of
from memory.context import Shares, plan_context
from memory.counting import TokenCounter
from memory.embedder import NOTHING, OnnxEmbedder
from memory.remembered import Remembered, spoken
from memory.replies import Loaded
from memory.summarize import values_of


@dataclass(frozen=True, slots=True)
class Language:
    """Sentences of a language: how a fact is told, changed and asked for, and small talk."""

    facts: tuple[tuple[str, str, str], ...]
    talk: tuple[str, ...]
    replies: tuple[str, ...]


LANGUAGES = {
    "en": Language(
        (
            (
                "My bank card ends in {v}.",
                "I got a new bank card, it ends in {v}.",
                "How does my bank card end?",
            ),
            (
                "I live in flat {v} near the lake.",
                "We moved, the flat is {v} now.",
                "Which flat do I live in?",
            ),
            (
                "My train to Pune is number {v}.",
                "The train was changed to {v}.",
                "What is my train number?",
            ),
            (
                "Our dog weighs {v} kilos.",
                "The dog weighs {v} kilos now.",
                "How much does the dog weigh?",
            ),
            (
                "The meeting room code is {v}.",
                "They changed the room code to {v}.",
                "What is the meeting room code?",
            ),
        ),
        (
            "What should I cook tonight? Something light perhaps, with rice or lentils.",
            "The weather is lovely today, I went for a long walk before breakfast.",
            "Tell me a story about a fox and a crow, the one with the cheese.",
            "I watched a film about sailors yesterday and it was far too long.",
            "How do I keep my plants alive in the summer heat without watering twice?",
        ),
        (
            "Gladly. Here is one idea that takes little time and needs nothing special.",
            "That sounds pleasant. Would you like me to say more about it?",
        ),
    ),
    "hi": Language(
        (
            (
                "मेरे बैंक कार्ड के आख़िरी अंक {v} हैं।",
                "नया बैंक कार्ड आया है, अंक {v} हैं।",
                "मेरे बैंक कार्ड के अंक क्या हैं?",
            ),
            ("मैं झील के पास फ्लैट {v} में रहता हूँ।", "हमने घर बदला, अब फ्लैट {v} है।", "मैं किस फ्लैट में रहता हूँ?"),
            ("पुणे की मेरी ट्रेन का नंबर {v} है।", "ट्रेन बदलकर {v} हो गई।", "मेरी ट्रेन का नंबर क्या है?"),
            ("हमारे कुत्ते का वज़न {v} किलो है।", "कुत्ते का वज़न अब {v} किलो है।", "कुत्ते का वज़न कितना है?"),
            ("मीटिंग रूम का कोड {v} है।", "मीटिंग रूम का कोड अब {v} है।", "मीटिंग रूम का कोड क्या है?"),
        ),
        (
            "आज खाने में क्या बनाऊँ? कुछ हल्का हो तो अच्छा रहेगा।",
            "मौसम बहुत सुहाना है, सुबह लंबी सैर की।",
            "मुझे लोमड़ी और कौवे की कहानी सुनाओ।",
        ),
        ("ज़रूर, एक आसान सा तरीका बताता हूँ।", "यह तो अच्छी बात है, और बताऊँ?"),
    ),
    "hi-Latn": Language(
        (
            (
                "mere bank card ke last digits {v} hain",
                "naya bank card aaya, digits {v} hain",
                "mera bank card ke digits kya hain?",
            ),
            (
                "main jheel ke paas flat {v} mein rehta hoon",
                "ghar badal liya, ab flat {v} hai",
                "main kis flat mein rahta hun?",
            ),
            (
                "pune wali train ka number {v} hai",
                "train badal ke {v} ho gayi",
                "meri train ka number kya hai?",
            ),
            (
                "hamare kutte ka wazan {v} kilo hai",
                "kutte ka wazan ab {v} kilo hai",
                "kutte ka vajan kitna hai?",
            ),
            (
                "meeting room ka code {v} hai",
                "meeting room ka code ab {v} hai",
                "meeting room ka code kya hai?",
            ),
        ),
        (
            "aaj khane mein kya banau? kuch halka ho to accha rahega",
            "mausam bahut accha hai, subah lambi sair ki",
            "mujhe lomdi aur kauve ki kahani sunao",
        ),
        ("zaroor, ek aasan tareeka batata hoon", "yeh to acchi baat hai, aur bataun?"),
    ),
    "ta": Language(
        (
            (
                "என் வங்கி அட்டையின் கடைசி எண்கள் {v}.",
                "புதிய வங்கி அட்டை வந்தது, எண்கள் {v}.",
                "என் வங்கி அட்டையின் எண்கள் என்ன?",
            ),
            (
                "நான் ஏரி அருகே {v} வீட்டில் வசிக்கிறேன்.",
                "வீடு மாறினோம், இப்போது வீடு {v}.",
                "நான் எந்த வீட்டில் வசிக்கிறேன்?",
            ),
            ("புனே செல்லும் என் ரயில் எண் {v}.", "ரயில் எண் {v} என மாறியது.", "என் ரயில் எண் என்ன?"),
            ("எங்கள் நாயின் எடை {v} கிலோ.", "நாயின் எடை இப்போது {v} கிலோ.", "நாயின் எடை எவ்வளவு?"),
            (
                "கூட்ட அறையின் குறியீடு {v}.",
                "கூட்ட அறையின் குறியீடு இப்போது {v}.",
                "கூட்ட அறையின் குறியீடு என்ன?",
            ),
        ),
        (
            "இன்று என்ன சமைக்கலாம்? லேசாக இருந்தால் நல்லது.",
            "வானிலை அருமையாக இருக்கிறது, காலையில் நீண்ட நடை போனேன்.",
            "நரியும் காகமும் கதையைச் சொல்லுங்கள்.",
        ),
        ("நிச்சயமாக, ஒரு எளிய வழி சொல்கிறேன்.", "நல்லது, இன்னும் சொல்லட்டுமா?"),
    ),
}


def conversation_of(
    language: Language, n_turns: int, rng: random.Random
) -> tuple[Remembered, dict[int, str]]:
    """Return a conversation and the current value of each of its facts."""
    turns = [rng.choice(language.talk) for _ in range(n_turns)]
    current: dict[int, str] = {}
    places = rng.sample(range(n_turns - 8), 5)
    is_tool = {places[4]: 4}
    for fact, place in enumerate(places):
        current[fact] = str(rng.randint(1000, 9999))
        turns[place] = language.facts[fact][0].format(v=current[fact])
    changed = rng.sample(range(4), 2)
    for fact in changed:  # told again, changed, after it was told first
        later = rng.choice([i for i in range(places[fact] + 1, n_turns - 2) if i not in places])
        places.append(later)
        current[fact] = str(rng.randint(1000, 9999))
        turns[later] = language.facts[fact][1].format(v=current[fact])
    gone = rng.choice([fact for fact in range(4) if fact not in changed])
    del current[gone]
    turns[places[gone]] = ""  # what a redaction leaves
    messages: list[Message] = []
    for i, text in enumerate(turns):
        if i in is_tool:
            call = {
                "id": f"c{i}",
                "type": "function",
                "function": {"name": "find", "arguments": "{}"},
            }
            messages += [
                Message("user", rng.choice(language.talk)),
                Message("assistant", None, tool_calls=(call,)),
            ]
            messages += [Message("tool", text, tool_call_id=f"c{i}")]
        else:
            messages.append(Message("user", text))
        messages.append(Message("assistant", rng.choice(language.replies)))
    return remembered_of(messages), current


def remembered_of(messages: list[Message]) -> Remembered:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    held = Remembered(
        Loaded(Conversation("c", "bench", start, n_items=len(messages)), "g", "0", 1, ())
    )
    parent = None
    for seq, message in enumerate(messages, 1):
        item = Item(f"msg_{seq:x}_a", seq, message, start + timedelta(minutes=seq), parent)
        parent = item.id
        held.extend([item])
    return held


def n_folds_of(held: Remembered, window: int, counter: TokenCounter, shares: Shares) -> int:
    """Return how often the tail moved while the conversation grew, turn by turn."""
    starts = set()
    for seq, item in enumerate(held.items):
        if item.message.role == "user":
            plan = plan_context(
                held.view(seq),
                (item.message,),
                weights=held.weights,
                instructions=None,
                limit_tokens=window,
                window_tokens=window,
                counter=counter,
                shares=shares,
            )
            starts.add(plan.tail_start)
    return len(starts - {0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=40)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--window", type=int, default=500)
    options = parser.parse_args()
    rng = random.Random(7)
    embedder = OnnxEmbedder.from_folder()
    tokenizer = embedder.tokenizer
    counter = TokenCounter(lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids))
    config = MemoryConfig()
    print(f"{'':10}{'facts':>8}{'kept %':>8}{'invented %':>12}{'tokens':>8}{'folds':>7}")
    for name, language in LANGUAGES.items():
        kept = invented = n_facts = n_values = tokens = 0
        folds: list[int] = []
        for _ in range(options.conversations // len(LANGUAGES)):
            held, current = conversation_of(language, options.turns, rng)
            folds.append(n_folds_of(held, options.window, counter, config.shares))
            told = {v for item in held.items for v in values_of(item.message.text)}
            for item in held.items:
                text = spoken(item)
                is_read = bool(text) and embedder.can_read(text)
                held.vectors.add(embedder.encode_now([text])[0].tokens if is_read else NOTHING)
            for fact, value in current.items():
                question = language.facts[fact][2]
                request = ContextRequest(
                    held.view(len(held.items)),
                    (Message("user", question),),
                    None,
                    options.window,
                    0,
                    True,
                    True,
                )
                encoding = (
                    embedder.encode_now([question])[0] if embedder.can_read(question) else None
                )
                context = context_of(request, held, counter, config.shares, config.recall, encoding)
                shown = " ".join(message.text for message in context.messages)
                quoted = " ".join(
                    m.text
                    for m in context.messages[:-1]
                    if m.role in ("user", "assistant") and "[Memory" not in m.text
                )
                kept += value in shown
                values = [v for v in values_of(quoted + " " + context.summary) if len(v) == 4]
                invented += sum(v not in told for v in values)
                n_values += len(values)
                n_facts += 1
                tokens += context.tokens
        share = 100 * invented / max(1, n_values)
        print(
            f"{name:10}{n_facts:8}{100 * kept / n_facts:8.1f}{share:12.1f}"
            f"{tokens / n_facts:8.0f}{min(folds):7}"
        )
    embedder.close()


if __name__ == "__main__":
    main()
