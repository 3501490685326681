"""What the demo stores and asks: short texts about data for machine learning."""

DOCUMENTS = {
    "missing-values": (
        "Filling the gaps",
        (
            "Before a column with gaps is filled, find out why the values are absent."
            " A median is a safe filler for skewed numbers, and a separate yes-or-no"
            " column that says where something was filled in often carries information"
            " of its own. Dropping every incomplete row is rarely a good bargain."
        ),
    ),
    "scaling": (
        "One yardstick for all columns",
        (
            "Distances are ruled by whichever column has the largest numbers: income"
            " in cents drowns age in years. Standardising subtracts the mean and"
            " divides by the standard deviation, so that nearest neighbours and"
            " gradient descent see every feature in the same units. Decision trees do"
            " not care."
        ),
    ),
    "leakage": (
        "Answers hidden in the questions",
        (
            "A score that looks too good usually means that the model was shown"
            " something it will not have in production. The usual culprits are"
            " statistics computed over all rows before the test set was put aside, and"
            " columns that are written only after the outcome is known."
        ),
    ),
    "encoding": (
        "Words into columns of numbers",
        (
            "A category such as a city has no order, so numbering it from one to a"
            " hundred teaches a linear model nonsense. One column of zeros and ones"
            " for each category is honest but wide; averaging the target for each"
            " category is compact, and must be computed without the row at hand."
        ),
    ),
    "train-test-split": (
        "A drawer that stays shut",
        (
            "Put a fifth of the data in a drawer and do not look at it until the end."
            " What is tuned on the training set and checked on the validation set is"
            " finally judged once on the test set. Shuffle first, and keep all rows of"
            " one customer on the same side."
        ),
    ),
    "deduplication": (
        "The same thing twice",
        (
            "Copies of one record make a test set easier than the world is, because"
            " half of each pair may have been trained on. Exact copies fall to a hash"
            " of the row; near copies, such as the same advertisement with another"
            " price, need shingles and a similarity threshold."
        ),
    ),
    "outliers": (
        "Far from the crowd",
        (
            "A temperature of 999 degrees is a broken sensor, but a very large order"
            " may be the customer that matters most. Look at extreme points before"
            " removing them. Clipping to the first and ninety-ninth percentile keeps"
            " the row and takes away its leverage on the mean."
        ),
    ),
    "class-imbalance": (
        "One fraud in a thousand",
        (
            "With one positive case in a thousand, a model that always says no is"
            " right 99.9 percent of the time. Measure precision and recall instead of"
            " accuracy, weigh the rare class higher in the loss, and oversample it in"
            " the training set only, never in the test set."
        ),
    ),
    "text-cleaning": (
        "Tidying prose",
        (
            "Strip the menus, cookie notices and footers around a web page before"
            " counting its words. Normalise Unicode, so that two spellings of the same"
            " accent are one token. Modern language models want case and punctuation"
            " left as they are; older word counts did better without."
        ),
    ),
    "time-series": (
        "Never train on tomorrow",
        (
            "When rows have dates, a random shuffle lets the model peek at the"
            " future. Cut at a day instead: everything before it is for training,"
            " everything after it for testing, and a gap as long as the longest lag"
            " between them. Then roll the cut forward and repeat."
        ),
    ),
    "feature-selection": (
        "Fewer, better columns",
        (
            "A hundred features of which ten matter cost memory, time and clarity."
            " Permutation importance shuffles one column at a time and watches how"
            " much the validation score drops. Of two columns that say the same, keep"
            " the one that is cheaper to collect."
        ),
    ),
    "data-versioning": (
        "Which data was that?",
        (
            "A result can be repeated only if the rows behind it can be found again."
            " Give every snapshot of the training data a version, keep its checksum"
            " beside the code, and never edit a file in place. Then an old experiment"
            " can be run once more, and a bad import can be undone."
        ),
    ),
}
"""Title and text by document id."""

QUESTIONS = (
    "Is it wrong to compute the mean over all rows before splitting?",
    "Is a strange value an error or the most interesting row?",
    "Is it better to delete incomplete records or to guess?",
)
"""The best answer to each is not the first of the dense and BM25 ranks fused."""
