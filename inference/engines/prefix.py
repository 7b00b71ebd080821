"""How far two sequences are the same, such as a prompt and what is in a KV cache already."""


def common_prefix(first: tuple[object, ...], second: tuple[object, ...]) -> int:
    """Number of leading items that are equal."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # comparing slices runs in C, comparing items does not
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
