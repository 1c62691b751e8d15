"""Names, places, codes and words that conversations are about.

Most are made up from syllables, so that there are far more than a small model can learn by heart:
it has to copy them. A hash splits every kind into entities for training and entities for the
evaluation, which training never sees.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Literal

Side = Literal["train", "eval"]


def _words(text: str) -> list[str]:
    return text.split()


_STARTS = _words(
    "Al An Bel Bran Cor Dar El Fen Gal Hal Is Jor Kel Lor Mar Nor Or Per Quin Ros "
    "Sal Tam Ul Ver Wil Yor Zan Mi Ka To Le So Be Ri Na Jo Lu Pa Da Ke"
)
_MIDDLES = ["", "", "a", "e", "i", "o", "ra", "li", "ne", "do", "mi", "sa", "ve", "to"]
_ENDS = _words("na ra la ric den vin mar lo sa by th ne ton ley wen do bert das ko mi rin")
_PLACE_ENDS = _words("ville ford vik burg ham stead port mouth field wick dale haven")
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕"
_GIVEN = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰文辉建国志红春梅雪晨"
    "宇浩然子轩思雨欣怡佳慧天乐一鸣若溪安宁书瑶"
)
_PLACE_FIRST = "青白红金银玉石松柳梅竹云海江河湖山龙凤虎鹤东西南北长永安平新古大小"
_PLACE_LAST = ["城", "镇", "村", "湾", "岭", "桥", "港", "州"]
_PLACE_MIDDLE = "阳阴溪泉林川岩沙田原丰宁和乐康水木花月"

ADJECTIVES = {
    "en": _words("red blue green black white yellow small big old new round wooden golden silver"),
    "zh": _words("红色 蓝色 绿色 黑色 白色 黄色 紫色 金色 银色 粉色 灰色 橙色"),
}
THINGS = {
    "en": _words(
        "key book lamp cup kite box coat bag clock chair map ring bell rope ball pen hat "
        "drum vase stamp bottle mirror pillow ladder"
    ),
    "zh": _words(
        "钥匙 书 台灯 杯子 风筝 盒子 外套 书包 闹钟 椅子 地图 戒指 铃铛 绳子 皮球 钢笔 "
        "帽子 花瓶 邮票 瓶子 镜子 枕头 梯子 雨伞"
    ),
}
FOODS = {
    "en": _words(
        "rice soup bread cheese apples noodles dumplings fish tofu honey grapes cake "
        "beans mushrooms tomatoes pancakes"
    ),
    "zh": _words("米饭 面条 饺子 苹果 豆腐 蛋糕 西瓜 葡萄 包子 鱼汤 番茄 蘑菇 玉米 馒头 火锅 汤圆"),
}
JOBS = {
    "en": _words(
        "teacher doctor painter farmer driver nurse baker singer pilot writer tailor "
        "sailor gardener cook"
    ),
    "zh": _words("老师 医生 画家 农民 司机 护士 面包师 歌手 飞行员 作家 裁缝 水手 园丁 厨师"),
}
PETS = {
    "en": _words("dog cat parrot rabbit horse goat turtle hamster"),
    "zh": _words("狗 猫 鹦鹉 兔子 马 山羊 乌龟 仓鼠"),
}


def side_of(entity: str) -> Side:
    """Tell which side an entity belongs to: one in eight is for the evaluation."""
    return (
        "eval" if hashlib.blake2b(entity.encode(), digest_size=2).digest()[0] % 8 == 0 else "train"
    )


def _draw(make: Callable[[random.Random], str], rng: random.Random, side: Side) -> str:
    while True:
        entity = make(rng)
        if side_of(entity) == side:
            return entity


def name(rng: random.Random, language: str, side: Side) -> str:
    """Draw a person's name."""
    return _draw(_chinese_name if language == "zh" else _english_name, rng, side)


def place(rng: random.Random, language: str, side: Side) -> str:
    """Draw a town's name."""
    return _draw(_chinese_place if language == "zh" else _english_place, rng, side)


def code(rng: random.Random, side: Side, digits: int = 4) -> str:
    """Draw a number of some digits, as text."""
    return _draw(lambda r: "".join(r.choice("0123456789") for _ in range(digits)), rng, side)


def word(rng: random.Random, side: Side) -> str:
    """Draw a made-up lower-case word for copying practice."""
    return _draw(lambda r: _english_name(r).lower() + r.choice(["", "", "s", "er"]), rng, side)


def characters(rng: random.Random, count: int) -> str:
    """Draw Chinese characters in no meaningful order."""
    return "".join(rng.choice(_GIVEN + _PLACE_FIRST + _PLACE_MIDDLE) for _ in range(count))


def _english_name(rng: random.Random) -> str:
    return rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)


def _english_place(rng: random.Random) -> str:
    return rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_PLACE_ENDS)


def _chinese_name(rng: random.Random) -> str:
    return rng.choice(_SURNAMES) + "".join(rng.choice(_GIVEN) for _ in range(rng.choice([1, 2, 2])))


def _chinese_place(rng: random.Random) -> str:
    return rng.choice(_PLACE_FIRST) + rng.choice(_PLACE_MIDDLE) + rng.choice(_PLACE_LAST)
