"""Make numbers of stored trials: leaderboard, intervals, marginals, depth.

Start at `study_view`. Numbers only: what draws them is `show`.
"""
