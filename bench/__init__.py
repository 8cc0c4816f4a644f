"""`oodguard bench` compares methods: a suite gives arenas, each method is trained and measured in each of them.

| folder or file | holds |
|---|---|
| `arena.py`, `problem.py` | what a suite gives: an arena, and in it the problem that a method learns |
| `suites/` | the suites by name; their photos, corruptions and CIFAR-10; arenas on disk |
| `spaces/`, `networks/` | what a method's input is (features or pixels), and the networks over it |
| `methods/` | the methods by name, one family per file |
| `baselines/` | post-hoc scores that need no training of their own, one per file |
| `runner.py`, `trial.py` | all methods in all arenas; one method in one arena |
| `results/` | the records, and how people read them: Markdown and HTML |
| `cost.py` | what training the guard's heads costs: `python -m oodguard.bench.cost` |
"""
