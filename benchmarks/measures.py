"""Ranking quality as trec_eval computes it, by `ir-measures`. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
from ir_measures import RR, R, nDCG

from benchmarks.beir import Qrels

CUTOFF = 10


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over all judged queries, each from 0 to 1."""

    ndcg_at_10: float
    """Gain is the grade, discount log2 (Järvelin and Kekäläinen, 2002)."""
    recall_at_10: float
    mrr: float
    """Of the whole ranking that was handed in."""


def quality(rankings: Mapping[str, Sequence[str]], qrels: Qrels) -> Quality:
    """Compare rankings with judgements; a query without a ranking counts 0.

    Args:
        rankings: Distinct document ids, best first, by query id.
        qrels: A grade above 0 is relevant.
    """
    run = {
        query_id: {document: -float(place) for place, document in enumerate(ranking)}
        for query_id, ranking in rankings.items()
    }
    ndcg, recall = nDCG @ CUTOFF, R @ CUTOFF
    means = ir_measures.calc_aggregate([ndcg, recall, RR], qrels, run)
    return Quality(means[ndcg], means[recall], means[RR])
