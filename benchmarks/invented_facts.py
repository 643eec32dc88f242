"""Facts that no model can know, with what models answer to questions about them: short, in other words, or with chatter around.

Each fact stands inside a paragraph about its subject, beside the other paragraphs of its language.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InventedFact:
    """A sentence that answers a question.

    Attributes:
        before, after: Sentences around it in its paragraph.
        answers: Right answers, each of which must be cited by the sentence.
    """

    language: str
    before: str
    sentence: str
    after: str
    question: str
    answers: tuple[str, ...]


FACTS = (
    InventedFact(
        "en",
        "The Brimholt ferry was built in Aalborg.",
        "It carries 412 passengers on two decks.",
        "The kitchen closes at nine.",
        "How many passengers does the Brimholt ferry carry?",
        (
            "412",
            "412 passengers.",
            "The Brimholt ferry can carry up to 412 people.",
            "It carries four hundred and twelve passengers.",
            "According to the sources, the ferry has room for 412 passengers in total across its decks.",
        ),
    ),
    InventedFact(
        "en",
        "Ostravar tea grows at the foot of Mount Kelm.",
        "The harvest is led by Marisol Quade.",
        "Visitors may help in May.",
        "Who leads the harvest of Ostravar tea?",
        (
            "Marisol Quade",
            "Quade.",
            "The person in charge is Marisol Quade.",
            "Marisol Quade is the leader of the tea harvest at Ostravar.",
        ),
    ),
    InventedFact(
        "en",
        "The Velden museum opened after a long dispute.",
        "Its first exhibition began on 3 May 1987.",
        "Entry costs 9 euros.",
        "When did the first exhibition of the Velden museum begin?",
        (
            "3 May 1987",
            "May 3, 1987.",
            "On May 3rd, 1987",
            "It started on the third of May 1987.",
            "1987-05-03",
            "The museum's first show was opened to visitors on May 3, 1987.",
        ),
    ),
    InventedFact(
        "en",
        "The Tarn X5 drill is made for masonry.",
        "Dogs are allowed in the Tarn service centre.",
        "It is open on weekdays.",
        "Are dogs allowed in the Tarn service centre?",
        ("Yes.", "Yes", "Yes, they are.", "Yes, dogs are allowed."),
    ),
    InventedFact(
        "en",
        "Room Kestrel is on the third floor.",
        "Smoking is not permitted in room Kestrel.",
        "Its windows face the river.",
        "Is smoking permitted in room Kestrel?",
        ("No.", "No, it isn't.", "No, smoking is not permitted there."),
    ),
    InventedFact(
        "en",
        "The Halden pump runs on two phases.",
        "Its tank holds 1,250 litres of glycol.",
        "Bolts are tightened by hand.",
        "How much glycol does the tank of the Halden pump hold?",
        (
            "1250 litres",
            "1,250 L",
            "1250",
            "The tank can store about 1250 liters of glycol.",
            "One thousand two hundred fifty litres.",
        ),
    ),
    InventedFact(
        "en",
        "Pellworm cheese ripens in salt caves.",
        "It needs nine weeks to ripen.",
        "The rind is washed in cider.",
        "How long does Pellworm cheese ripen?",
        ("9 weeks", "Nine weeks.", "About 9 weeks.", "Pellworm cheese takes 9 weeks until it is ripe."),
    ),
    InventedFact(
        "en",
        "Zephyrine paint dries without smell.",
        "A tin costs $37.50 in the shop.",
        "Brushes are cleaned with water.",
        "What is the price of a tin of Zephyrine paint?",
        ("$37.50", "37.50 dollars", "37.5 USD", "One tin is priced at $37.50.", "It costs 37.50 dollars per tin."),
    ),
    InventedFact(
        "en",
        "The Orrin line has four stations.",
        "Trains on the Orrin line leave at 5:40 pm.",
        "Seats cannot be booked.",
        "When do trains on the Orrin line leave?",
        ("5:40 pm", "At 5:40 PM.", "17:40", "The trains depart at 17:40.", "They leave at 5.40 p.m."),
    ),
    InventedFact(
        "en",
        "Captain Ilse Brandvold commands the survey ship.",
        "Her cat is called Dubber.",
        "She was born in Tromsø.",
        "What is the name of Captain Brandvold's cat?",
        ("Dubber", "Dubber.", "The captain's pet is named Dubber.", "It's Dubber!", 'The cat\'s name is "Dubber".'),
    ),
    InventedFact(
        "en",
        "The Corvale code governs all builders.",
        "Walls must be 18 cm thick.",
        "Roofs may be flat.",
        "How thick must walls be under the Corvale code?",
        ("18 cm", "18cm", "18 centimetres", "Under the Corvale code, a wall has to have a thickness of at least 18 centimetres."),
    ),
    InventedFact(
        "en",
        "The Quillon award is given every year.",
        "The 2031 winner was Tomas Eerikäinen from Oulu.",
        "The prize is a bell.",
        "Who won the Quillon award in 2031?",
        ("Tomas Eerikäinen", "Eerikainen", "Tomas Eerikainen, who comes from Oulu, won it.", "The winner was Tomas Eerikäinen."),
    ),
    InventedFact(
        "vi",
        "Xưởng gốm Lạc Sơn nằm bên sông.",
        "Xưởng có 27 lò nung.",
        "Đất sét được chở bằng thuyền.",
        "Xưởng gốm Lạc Sơn có bao nhiêu lò nung?",
        ("27", "27 lò nung.", "Có 27 lò.", "Hai mươi bảy lò nung.", "Xưởng gốm Lạc Sơn có tất cả 27 lò nung.", "27 lo nung"),
    ),
    InventedFact(
        "vi",
        "Trà Mộc Ẩn được trồng ở vùng cao.",
        "Người sáng lập là bà Đoàn Thị Vy Lam.",
        "Trà được phơi trong bóng râm.",
        "Ai sáng lập Trà Mộc Ẩn?",
        (
            "Bà Đoàn Thị Vy Lam",
            "Đoàn Thị Vy Lam.",
            "Vy Lam",
            "Người đã lập ra thương hiệu này là bà Đoàn Thị Vy Lam.",
            "Doan Thi Vy Lam",
        ),
    ),
    InventedFact(
        "vi",
        "Cầu Vân Hải nối hai bờ.",
        "Cầu được khánh thành ngày 14/8/2029.",
        "Xe tải không được qua.",
        "Cầu Vân Hải được khánh thành khi nào?",
        ("14/8/2029", "Ngày 14 tháng 8 năm 2029.", "14-08-2029", "Cây cầu khánh thành vào ngày 14 tháng 8 năm 2029."),
    ),
    InventedFact(
        "vi",
        "Khách sạn Nguyệt Cát có hồ bơi.",
        "Khách được mang theo chó mèo.",
        "Bữa sáng từ 6 giờ.",
        "Khách sạn Nguyệt Cát có cho mang theo chó mèo không?",
        ("Có.", "Có ạ.", "Được.", "Vâng, khách được mang theo chó mèo."),
    ),
    InventedFact(
        "vi",
        "Máy lọc Thanh Tuyền dùng ba lõi.",
        "Giá bán là 2.450.000 đồng.",
        "Lõi thay mỗi năm.",
        "Máy lọc Thanh Tuyền giá bao nhiêu?",
        (
            "2.450.000 đồng",
            "2450000 đồng",
            "2,45 triệu đồng",
            "2.450.000đ",
            "Máy có giá 2.450.000 VND.",
            "Giá là 2 450 000 đồng.",
        ),
    ),
    InventedFact(
        "vi",
        "Thư viện Hồng Lam mở cửa cả tuần.",
        "Mỗi bạn đọc được mượn tối đa sáu cuốn.",
        "Phòng đọc ở tầng hai.",
        "Mỗi bạn đọc của thư viện Hồng Lam được mượn tối đa mấy cuốn?",
        ("6 cuốn", "Sáu cuốn.", "Tối đa 6 cuốn sách.", "Mỗi người có thể mượn nhiều nhất sáu quyển."),
    ),
    InventedFact(
        "vi",
        "Giống lúa Bạch Tần chịu mặn tốt.",
        "Lúa chín sau 96 ngày.",
        "Hạt dài và thơm.",
        "Giống lúa Bạch Tần chín sau bao lâu?",
        ("96 ngày", "Sau 96 ngày.", "Khoảng 96 ngày là lúa chín.", "Chín mươi sáu ngày"),
    ),
    InventedFact(
        "vi",
        "Đội bóng Sao Khuê tập ở sân Trúc.",
        "Đội trưởng mang áo số 44 là Kiều Anh Dương.",
        "Đội tập mỗi chiều.",
        "Đội trưởng của đội bóng Sao Khuê là ai?",
        ("Kiều Anh Dương", "Kieu Anh Duong", "Đó là anh Kiều Anh Dương, mặc áo số 44."),
    ),
)
