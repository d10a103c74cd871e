"""Whether a prompt says anything about arrangement (paper §3.2: "a picture of a tree" does not).

A directive is a word or phrase that says where things are: to each other (left of, above, behind, on, in a box,
hidden by, surrounded by), in the picture (in the corner, at the bottom, in the foreground, centred), in a formation
(in a row, stacked, side by side) or to the viewer (close-up, from above). What counts are the English words of
`_DIRECTIVES`, after the idioms of `_IDIOMS` and what stands in double quotes (words to be written in the picture)
have been taken out.

Not directives: numbers ("three cats"), what somebody does (holding, wearing, riding), where or when a scene is set
(in a forest, in winter, on a sunny day, in the rain, under a starry sky), how it looks (on a white background, in the
style of), left and right parts of a body or a pair (left shoe), and left as in "what is left".

In doubt a phrase counts: a word too many leaves a score as the judge stated it, one too few takes it away.
"""

from __future__ import annotations

import re


def _any(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


_THE = "(?:a|an|the|his|her|its|their|my|your|our|this|that|each|every|another|one|both|either|some)"
_STOP = _any(
    "in on of at by with and or to from under over near one a an the is are for at before after during when while"
)
_FILL = rf"(?:(?!{_STOP}\b)[a-z0-9']+ ){{0,3}}"
"""Up to three words between an article and its noun."""
_SIDE = "(?:left|right)"
_FAR = "(?:(?:far|immediate|very|exact|dead|upper|lower|top|bottom) )?"
_SPAN = "(?:sides?|edges?|corners?|halves|half|third|part|ends?|quadrant|row|shelf)"
_COVER = "(?:hidden|obscured|occluded|covered|concealed|blocked)"
_PARTLY = "(?:partly|partially|half|mostly|completely|fully)"
_FORMATION = "(?:row|line|column|circle|ring|stack|pile|heap|grid|pyramid|queue|cluster|spiral|semicircle|formation)"
_BODY = _any(
    "foot feet legs? arms? hands? shoulders? ears? eyes? knees? wrists? ankles? cheeks? paws? wings? shoes? boots? "
    "gloves? socks? sleeves? thumbs? fingers? lanes? pages? hooks?"
)
_SKY = _any(
    "sky skies moon moonlight sun sunlight sunshine stars starlight rain snow lights? lighting clouds conditions sea"
) + (  # not the first half of something else, as in "under a light blue umbrella"
    r"(?! (?!(?:and|or|in|on|at|of|with|by|near|as|while|that|during|from|over|above|behind|beside|next)\b)[a-z])"
)
_WHEN = _any(
    "days? mornings? evenings? afternoons? nights? noon weekends? mondays? tuesdays? wednesdays? thursdays? "
    "fridays? saturdays? sundays? birthday occasion christmas halloween easter winter summer spring autumn weeks? "
    "years?"
)
_OUTING = _any(
    "trip journey vacation holidays? adventure mission diet budget walk hike picnic safari date break tour quest "
    "hunt run stroll phone telephone call internet way loose move go lookout job verge brink rise market whole "
    "contrary"
)
_STATE = _any(
    "fire display sale duty foot time purpose earth mars paper canvas film tv television stage set strike guard "
    "alert average hold demand trend point artstation instagram deviantart off"
)
_UNDER = _any(
    "construction attack pressure control siege investigation repair renovation water arrest stress way cover "
    "threat fire protection surveillance age influence radar weather microscope spell command name title"
)
_TWO_SIDED = _any(
    "love friendship battle fight war conversation discussion contrast handshake difference relationship bond kiss "
    "hug match game argument duel meeting conflict balance harmony connection mix cross blend"
)
_VERB_ON = _any(
    r"based focus\w* depending works? working concentrating relying feeding going carry so later hands spying trying "
    r"tried puts? putting turned switched switching cheering keep"
)
_CONTAINER = _any(
    "box crate bowl basket cup mug glass vase jar bag backpack bottle pot pan bucket cage drawer cupboard closet "
    "fridge oven microwave tank aquarium bathtub tub sink pool nest hole window doorway frame mirror pocket mouth "
    "lap beak car boat basin chair armchair bed tray plate dish suitcase trunk barrel cart wagon stroller cradle "
    "envelope shell tent boxes glasses baskets bowls cups jars vases bottles pots bags cages nests boats chairs "
    "beds crates buckets"
)
_PLACE = _any(
    "window door river lake sea ocean road fire fireplace wall tree table bed pool side shore stream pond gate "
    "fence bench lamp entrance counter desk bar stove piano roadside seaside lakeside riverside"
)

_IDIOMS = rf"""
{_SIDE} {_BODY}(?! side)|{_SIDE} (?:handed|hander|now|alone|over)
right (?:of way|away|angled?|mind|time|place|direction)|turn(?:s|ed|ing)? {_SIDE}
(?:what|all)(?: that)?(?: is| was| remains|'s)? left of|left behind(?! {_THE}\b)
under (?:the )?{_UNDER}|under (?:{_THE} )?{_FILL}{_SKY}
over (?:[0-9][0-9,.]*|and over)
over (?:{_THE} )?(?:hundred|thousand|million|time|there|here|again|easy|night|coffee|dinner)
over the (?:years|past|last|next|course|top|phone|moon|weekend|centuries|decades|age)
(?:game|taken?|takes|taking|handed|handing|more|starts?|start(?:ed)?) over(?! {_THE}\b)|all over(?! {_THE}\b)
above (?:all|average|zero|freezing|the law|board|[0-9]+)|below (?:zero|freezing|average|par|[0-9]+)
(?:lags?|lagging|falls?|falling|fell) behind(?! \w)
behind (?:the scenes|bars|schedule|the times?|closed doors|the wheel)
{_TWO_SIDED} between|between (?:the )?(?:[0-9]+|ages|years|hours|jobs|meals|lessons)
around the (?:world|clock|globe|corner)
near (?:future|death|miss|perfect|mint|infrared)|inside (?:out|jokes?|information|story)
beside (?:\w+sel(?:f|ves)|the point)
next to (?:nothing|none|impossible|last)|close to (?:midnight|death|[0-9]+|perfect|nature|{_THE} hearts?)
far from (?:home|over|perfect|ideal)|away from home|outside the box
in the middle of (?:{_THE} )?{_FILL}{_WHEN}
in the middle of (?:{_THE} )?{_FILL}(?:nowhere|action|storm|speech|performance|{_TWO_SIDED})
in the middle (?:ages|east|class)|in the (?:front|back) (?:yard|garden|porch|lawn|room)
cent(?:er|re) of (?:attention|gravity|the universe|town)
in the corner (?:shop|store|cafe|office)|corner of \w+ eye|in the same boat|in the line of duty
in (?:\w+ )?good hands
opposite (?:sex|gender|colou?rs?|directions?|effect)|in opposite directions
through the (?:years|ages|night|day|centuries|eyes|lens)
across the (?:world|globe|country|nation|universe|years)|along with
(?:fight|fights|fighting|protest|protesting|play|playing|plays|battle|battling|war|match|competing|racing|game) against
against (?:all odds|time|racism|war)|against the (?:odds|law|clock|wind|rules|enemy|grain)
(?:on|against|over) (?:{_THE} )?{_FILL}(?:background|backdrop)s?
within the (?:law|limits|rules|next|hour)
{_VERB_ON} on(?! (?:the|a) (?:wall|floor|ground|ceiling|roof|side)\b)
on (?:{_THE} )?{_FILL}(?:{_WHEN}|{_OUTING})|on {_STATE}
(?:on|at the) top of (?:that|\w+ (?:lungs|game|voice|class))|top of the (?:morning|world|line|range|game)
at the (?:end|top) of the (?:day|year|week|season|war|world|movie|month|hour)
"""

# Of two that begin at the same word the one further up is taken, so longer ones come first.
_DIRECTIVES = rf"""
(?:to|on|at|in|from|towards?) (?:{_THE} )?{_FAR}{_SIDE}(?: hand)?(?: {_SPAN})?(?: of)?
{_SIDE}(?: hand)? {_SPAN}(?: of)?|{_SIDE} of|(?:far|upper|lower|top|bottom) {_SIDE}(?: {_SPAN})?
(?:{_SIDE}|top|bottom)most
(?:facing|looking|pointing) (?:{_SIDE}|away|up|down|upwards?|downwards?|each other|one another|the (?:camera|viewer))
(?:in|on|at|along|across) (?:{_THE} )?(?:upper|lower|top|bottom) (?:{_SPAN}|middle|cent(?:re|er))(?: of)?
in back of|on top(?: of)?|on (?:either|both|each|one|opposite|the other|the same) sides?(?: of)?
in (?:the )?(?:(?:very|exact|dead) )?(?:foreground|background|distance|middle|cent(?:re|er)|front|back|rear)(?: of)?
in (?:the|a|each|one|every|all|both|two|three|opposite)(?: \w+)? corners?(?: of)?|in opposite corners
in (?:{_THE}|single) (?:\w+ )?{_FORMATION}|in (?:\w+ )?(?:rows|lines|columns|circles|stacks|piles)|in bed
in (?:{_THE} )?{_FILL}{_CONTAINER}
at {_THE} {_FAR}(?:top|bottom|ends?|edge|foot|base|front|back|rear|sides?|corner|cent(?:re|er)|middle)(?: of)?
(?:at|by) {_THE} {_FILL}{_PLACE}
from (?:above|below|behind)|from {_THE} (?:side|front|back|top)
above|below|beneath|underneath|behind|beside|alongside|(?:in )?between|amid(?:st)?|among(?:st)?|atop|inside
opposite|onto
(?:on|under|over|against)(?= \w)
(?:across|along|through|around|within|outside|beyond|out of)(?= (?:{_THE}|it|them)\b)
outside of|across from|near|nearby|close to|close together|adjacent to|next to|far from|far apart|away from|far away
side by side|back to back|face to face|(?:hanging|dangling|suspended|emerging) from
surround(?:ed|ing|s)(?: by)?|encircl(?:ed|ing|es)(?: by)?|(?:framed|flanked|enclosed|bordered|followed) by|flanking
(?:{_PARTLY} )?{_COVER}(?: from view)? by|{_PARTLY} {_COVER}|hidden in
(?:hiding|blocking|covering|obscuring|occluding)(?= {_THE}\b)|overlapping|overlaps|intersecting
rows? of|grid of|stacks? of|lined up|stacked|arranged|aligned|piled(?: up)?|scattered|cent(?:red|ered)
diagonal(?:ly)?|symmetric(?:al|ally)?|horizontally|vertically|nested|upside down
close up|(?:wide|long|full body|overhead) shot|wide angle|bird'?s eye view|aerial (?:view|shot|photo\w*)|top down
(?:side|front|top|rear|overhead) view(?! mirror)|(?:low|high) angle|eye level|rule of thirds
"""


def _pattern(table: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w'])(?:{'|'.join(table.split(chr(10))[1:-1])})(?![\w'])")


_IDIOM, _DIRECTIVE = _pattern(_IDIOMS), _pattern(_DIRECTIVES)
_STRAIGHT = str.maketrans("“”„‟’‘‐‑‒–—", '""""' + "''" + "-----")


def spatial_directives(text: str) -> list[str]:
    """The words in a prompt that say how things are arranged, in order, lower case, hyphens as spaces; [] = none."""
    words = " ".join(text.translate(_STRAIGHT).lower().replace("-", " ").split())
    if not re.fullmatch(r'"[^"]*"\W*', words):  # all of it in quotes: a quoted prompt, not words in the picture
        words = re.sub(r'"[^"]*"', "·", words)
    return _DIRECTIVE.findall(_IDIOM.sub("·", words))
