"""Which English words can and cannot name a thing: the lists behind `keywords`. Ours, and short on purpose."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPEN = _words("object objects thing things item items stuff shape shapes figure figures")
"""So general that, asked for by themselves, anything may stand for them."""

EMPTY = OPEN | _words(
    """picture pictures photo photos photograph photographs image images pic shot shots snapshot view views scene
    scenes background backgrounds foreground backdrop setting composition frame close closeup something
    anything everything nothing subject subjects element elements detail details area areas region regions
    section sections portion part parts piece pieces slice surface texture pattern patterns design color
    colour colors colours style form outline silhouette unknown unclear none unidentified unidentifiable
    unrecognizable unrecognisable indistinct nondescript group groups bunch cluster collection set sets pair
    pairs pile piles stack stacks row rows line lines lot lots number kind type sort top bottom middle
    center centre side sides edge edges corner corners back end ends half variety array series assortment
    artifact artifacts label name way time day days night morning evening afternoon year distance quality"""
)
"""Names no thing by itself."""

OF_WHAT = _words(
    """painting paintings drawing drawings sketch illustration portrait poster print rendering render artwork
    depiction couple"""
)
"""Names a thing unless "of" follows: then the thing is what it shows ("a drawing of a cat"), or how many there are."""

COPIES = _words("shadow shadows reflection reflections")
"""Of a thing, but not the thing."""

COLOURS_AND_MATERIALS = _words(
    """orange gold silver bronze copper rose violet lavender peach olive lime cream coral salmon plum mint ivory
    ebony wood glass stone metal plastic leather paper brick cotton silk wool fabric concrete marble ceramic
    rubber cardboard clay straw bamboo iron steel crystal diamond velvet denim lace porcelain granite tin
    brass foam ice light square"""
)
"""Describe the word behind them ("a glass table", "an orange circle"), else name a thing ("a glass", "an orange")."""

DESCRIPTIONS = _words(
    """red green blue yellow purple pink brown black white grey gray cyan magenta turquoise teal maroon beige tan
    golden navy crimson scarlet indigo amber aqua khaki burgundy mauve reddish greenish bluish yellowish
    brownish grayish greyish whitish colorful colourful multicolored multicoloured monochrome transparent
    translucent opaque clear blonde blond brunette dark darker bright brighter pale deep vivid vibrant faint
    dim glossy matte shiny glowing neon pastel big bigger biggest large larger largest small smaller
    smallest little tiny huge giant enormous massive gigantic mini miniature tall taller short shorter long
    longer wide wider narrow thick thin slim fat heavy medium sized oversized full whole partial round
    rectangular triangular circular oval oblong cubic cubical spherical cylindrical conical pyramidal
    hexagonal pentagonal octagonal curved straight flat pointed sharp curly wavy geometric abstract
    irregular wooden metallic woolen woollen golden earthen glassy leathery stony plush furry fluffy fuzzy
    hairy feathery silky smooth rough soft hard wet dry dusty dirty clean rusty fresh ripe rotten raw hot
    cold warm cool icy snowy rainy sunny cloudy foggy windy stormy starry misty old older new newer young
    younger ancient modern vintage antique retro rustic classic traditional contemporary elegant fancy cute
    adorable beautiful pretty lovely ugly scary happy sad angry calm quiet busy lonely alone sleepy playful
    lively fierce majestic sleek sturdy delicate gentle wild domestic tame stray exotic tropical single
    double triple other same different similar various numerous several many few multiple main primary
    central first second third last next striped spotted checkered plaid floral patterned plain blank blurry
    blurred hazy distorted deformed malformed odd strange weird unusual generic typical simple complex
    realistic surreal digital high low good bad perfect poor great best better nice open closed empty left
    right upper lower front rear visible invisible nearby distant famous favourite favorite very quite
    rather so too almost nearly just only exactly about approximately maybe perhaps possibly probably likely
    also still asleep awake upside"""
)
"""Say how something is, or how sure somebody is. Names no thing, wherever it stands."""

NUMBERS = _words(
    """zero one two three four five six seven eight nine ten eleven twelve dozen dozens hundred hundreds thousand
    thousands million"""
)

PASSING = _words(
    """a an the this that these those it he she they them him his her hers its their theirs my your our i you we
    there here and or plus of some any each every another both all either own as s t"""
)
"""Separate phrases; what follows is named as well ("a cup of coffee", "a cat and a dog")."""

NEGATIONS = _words("no not without non minus lacking lacks missing never")
"""What follows is not there."""

TELLING = _words(
    """is are was were be been being am seem seems appear appears look looks resembles resemble show shows showing
    depict depicts depicting feature features featuring contain contains containing include includes display
    displays represent represents portray portrays picturing illustrating"""
)
"""Say what a subject is or shows."""

CLOSING = _words(
    """in on at under underneath over above below beneath behind beside besides between by near with within from to
    into onto through throughout across along alongside around against inside outside toward towards for
    like during before after past off out up down amid amidst among amongst atop beyond opposite via per
    upon until together apart outdoors indoors away ahead aside everywhere somewhere which who whom whose
    where when while because if but though although then than how what why has have had having do does did
    can could will would may might must should shall"""
)
"""Separate phrases; after them a description goes on to where a thing is, what it does or what is around it."""

ACTIONS = _words(
    """sit sits sat stand stands stood eat eats ate drinking wear wears wore hold holds carry carries read reads
    chase chases lean leans hang hangs walk walks run runs ran jump jumps sleep sleeps slept play plays sing
    sings sang gaze gazes stare stares rest rests lies lay climb climbs swim swims swam enjoy enjoys drives
    drove rides rode throws threw catches pull pulls push pushes grazes smile smiles laugh laughs wait waits
    stretches perches sprawls lounges wander wanders soar soars flew illuminates fills casts grow grows grew
    blooms glow glows shine shines shone reach reaches overlook overlooks surround surrounds made makes make
    gives gave takes took goes went comes came gets got use uses cooks dances barks hides hide"""
)
"""Finite verbs; they separate like the closing words."""

PARTICIPLES = _words(
    """hidden broken worn seen shown drawn torn woven thrown blown grown driven ridden eaten fallen stolen written
    built caught cut kept lost lain hung held spun swept bent lit born sunk drunk shrunk stuck struck strewn
    sewn sawn mown frozen chosen spilt burnt split spread cast shut beaten bitten carved dyed tied tying
    lying dying using"""
)

ING_NOUNS = _words(
    """string spring swing sling bling icing viking ceiling pudding wedding stocking building painting drawing
    clothing earring herring lightning awning dumpling duckling gosling seedling sapling sibling darling
    starling railing siding lodging landing crossing opening parking frosting topping filling stuffing
    dressing bedding flooring shelving yearling fledgling nestling scaffolding paneling lighting"""
)
ED_NOUNS = _words(
    "sled shed seed weed reed steed bobsled flatbed seabed moped quadruped watershed breed feed speed creed tweed"
)
LY_NOUNS = _words(
    "butterfly fly dragonfly grizzly firefly jelly lily belly family doily bully holly ally trolly tally italy"
)

PARTS = _words(
    """head face body leg legs tail ear ears eye eyes nose mouth hand hands arm arms wing wings paw paws foot feet
    neck back hair fur skin beak claw claws horn horns mane hoof hooves snout muzzle torso shoulder shoulders chest
    belly finger fingers door doors window windows wheel wheels tire tires tyre tyres handle handles lid screen
    button buttons seat roof leaf leaves petal petals stem branch branches trunk peel crust cover blade rim"""
)
"""Parts: "horse head" names the horse as well."""

HOLDING = _words("wearing holding carrying")
"""What follows is on or in the hands of somebody."""
