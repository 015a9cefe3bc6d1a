//! What is too much for one message, in several.

/// `items` in groups, in their order: one that has `most` bytes or more, as `size` counts them, gets no further item. One group
/// at least, which is empty if there are no items.
pub(super) fn cut<T>(items: impl IntoIterator<Item = T>, most: usize, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut all, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        if bytes >= most {
            all.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += size(&item);
        group.push(item);
    }
    all.push(group);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_full_once_it_has_as_many_bytes_and_there_is_always_one() {
        let size = |bytes: &usize| *bytes;
        assert_eq!(cut([3, 3, 3, 9, 1], 5, size), [vec![3, 3], vec![3, 9], vec![1]]);
        assert_eq!(cut([], 5, size), [Vec::<usize>::new()]);
    }
}
