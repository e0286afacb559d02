"""Words that a prompt's grammar knows by name: English's closed classes, and the vocabulary of prompts about pictures."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


DETERMINERS = _set(
    """a an the this these those some any each every another his her its their my your our one two three four five six seven
    eight nine ten eleven twelve dozen several many few both all no various multiple numerous most other single either"""
)
SINGULAR = _set("a an one another each every this")
SEVERAL = _set(
    """two three four five six seven eight nine ten eleven twelve dozen several many few both these those multiple numerous"""
)
COUNTS = _set("one two three four five six seven eight nine ten some any each another several many few both all other")
ARTICLES = _set("a an the his her its their my your our no every")
POSSESSIVES = _set("his her its their my your our")
PRONOUNS = _set(
    """i you he she it we they me him us them himself herself itself themselves mine yours hers ours theirs someone something
    everyone everything nobody nothing none one-another there here each-other who whom which what himself"""
)
PREPOSITIONS = _set(
    """about above across after against along alongside amid amidst among amongst around as astride at atop before behind
    below beneath beside besides between beyond by despite down during for from in inside into like near of off on onto
    opposite out outside over past per round since than through throughout till to toward towards under underneath until
    unto up upon via versus vs w with within without while when where whose that because if so though although whether"""
)
CONJUNCTIONS = _set("and or but nor plus & +")
AUXILIARIES = _set(
    """is are was were be been being am isn't aren't wasn't weren't it's there's that's he's she's they're has have had
    having does do did can could will would shall should may might must cannot can't won't"""
)
DEGREES = _set(
    """very really highly extremely slightly quite too also not just so rather somewhat partly partially fully almost nearly
    half still then now even only again together apart alone away upside downside indoors outdoors overhead nearby"""
)
# In the lists above, and words like any other as well: "a watering can", "a round table", "a past champion".
OPEN_TOO = _set("can will might round past down opposite back outside inside like may second other single dozen")
HAVE = _set("has have had having")

SIDES = "|".join(
    _set(
        """front top back side left right middle center centre bottom edge end base foot rear tip inside outside corner heart
        midst"""
    )
)
PARTITIVES = "|".join(
    _set(
        """pair couple lot lots bunch group set number variety plenty collection series trio row piece pieces kind type sort
        bit"""
    )
)
ADVERBIALS = "|".join(
    (
        "upside down", "inside out", "face to face", "side by side", "back to back", "nose to tail", "end to end", "at once",
        "at all", "of course", "in half", "in two", "in pieces", "in a row", "in a line",
        "in a circle", "on fire", "in love", "on top", "in front",
    )
)  # fmt: skip
# Several words that do the work of one, and its role (`tagging`); the longer before the shorter. Each is matched against the
# prompt's words and signs with a space between any two.
JOINED: tuple[tuple[str, str], ...] = (
    (
        r"(?:in|on|at|to|by|from|inside|near|off) (?:the |its |a )?(?:very |left |right |far |other |opposite )?"
        rf"(?:{SIDES})(?: side| hand side)? of",
        "P",
    ),
    (r"(?:in|with|of) (?:the |a )?(?:shape|form|likeness) of", "P"),
    (r"(?:in|after) (?:the |a )?(?:style|manner|vein) of", "STYLE"),
    (r"(?:left|right|top|front|ahead|instead|because|regardless|south|north|east|west|inside|outside|out) of", "P"),
    (r"(?:next|close|adjacent|due|according|thanks|similar|prior|attached) to", "P"),
    (r"(?:along|together) with|such as", "P"),
    (r"as well as", "C"),
    (r"(?:worn|burnt|burned|hollowed|cut) out|(?:rolled|folded|dressed|grown|curled) up|broken down|left over", "J"),
    (r"each other|one another", "O"),
    (rf"(?:a |the )?(?:{PARTITIVES}) of", "DET"),
    (ADVERBIALS, "R"),
    (r"(?:on|to|in|at) the (?:left|right|front|back|top|bottom|middle|foreground|distance|air)(?= and | , | or |$)", "R"),
    (r"(?:at|by) (?:night|day|dawn|dusk|sunset|sunrise|noon|midnight|home|work|rest|sea)", "R"),
)

# What names the picture rather than what is in it, before "of": "a photo of a cube".
PICTURES = _set(
    """photo photograph photography picture image render rendering renders drawing sketch illustration model closeup close-up
    view shot portrait painting watercolor watercolour scene depiction rendition artwork print snapshot cartoon cgi art
    photos pictures images screenshot concept version representation interpretation visualization"""
)
# What may stand before such a word besides adjectives.
CAMERA = _set(
    """wide angle zoomed out in up close closeup close-up dslr macro aerial isometric professional studio oil pencil digital
    3d 2d cgi hd uhd 4k 8k hdr high low quality resolution raw product stock concept film polaroid pixel voxel clay anime
    vector poly full body top bird's-eye eye drone"""
)
# What a list of qualities is made of; a part between commas that has one of these names no subject.
QUALITIES = _set(
    """masterpiece quality depth resolution detail details detailed hd uhd fhd 4k 8k 16k 2k hdr hdri raytracing render
    rendering rendered octane unreal blender artstation deviantart cgsociety pixar ghibli disney dreamworks style styled
    stylized aesthetic lighting light lit lights backlit bokeh focus dof depth-of-field lens mm f/1 photorealistic
    realistic photorealism hyperrealistic hyperrealism realism hyper-realistic ultra-realistic cinematic volumetric
    ambient photography photo photograph photos dslr isometric lowpoly low-poly poly polygon voxel texture textures
    textured pbr material materials engine ue5 unreal-engine background backdrop composition award award-winning winning
    trending artwork art painting illustration sketch concept-art rendition perspective angle shot view close-up closeup
    macro symmetrical symmetry sharp shading shaded shadows vray v-ray redshift cycles raytraced ray-traced ray tracing palette
    colors colours colorful colourful vibrant hyperdetailed intricate ultra-detailed highly-detailed insanely elegant best
    amazing 3d 2d asset model cgi centered centred full-body simple plain minimalist minimalistic graphics game-ready
    blurry blurred exposure iso sfw nsfw rtx global illumination occlusion dramatic moody cartoon anime"""
)
# Heads that name a manner or a setting of the picture wherever they stand.
MANNERS = _set(
    """style quality resolution background backdrop lighting detail details manner color colour colors colours photography
    bokeh artstation"""
)
COLOURS = _set(
    """red orange yellow green blue purple violet pink brown black white grey gray cyan magenta teal turquoise beige maroon
    navy crimson scarlet golden silver gold"""
)
# Stuffs that WordNet files as artifacts or events: what something is made of, not a thing in the picture.
STUFFS = _set(
    """velvet silk cotton denim cloth fabric felt lace linen satin wool leather fur paper cardboard porcelain ceramic
    ceramics wood stone metal plastic glass gold silver bronze brass copper iron steel marble granite clay ice snow
    concrete rubber sand mud water rain rust dust dirt smoke fog mist foam wax brick straw wicker bamboo crystal jade
    ivory bone mosaic ash pewter tin aluminium aluminum foil oil paint ink glaze frost dew moss blood slime sunlight
    moonlight light shadow shade darkness"""
)
# Parts that belong to what has them: "a cat with blue eyes", "balances a teacup on its head".
BODY_PARTS = _set(
    """head heads eye eyes ear ears nose mouth face faces neck hair fur skin arm arms hand hands leg legs foot feet paw paws
    tail tails wing wings back belly chest shoulder shoulders lap finger fingers tooth teeth tongue claw claws beak
    whiskers feather feathers mane horn horns body trunk lips chin cheeks knees elbow elbows fins scales tentacles hoof
    hooves snout muzzle antlers hump pouch side sides beard mustache moustache eyebrows smile grin expression"""
)
TIMES = _set(
    """day night morning afternoon evening noon midnight dawn dusk sunset sunrise time moment while spring summer autumn
    winter"""
)
SEEN_TOO = _set("reflection shadow")  # of one's own, and yet in the picture
NOT_THERE = _set("without no not never")
