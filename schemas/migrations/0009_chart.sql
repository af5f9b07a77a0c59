-- The windows that a chart of a long release must not leave out: those in harm, and those before which evidence was dropped.
-- There are few of them, so that the index costs next to nothing. The condition is the one of src/store/chart.rs, to the letter.
CREATE INDEX windows_notable ON windows (release, window_index)
    WHERE instr(body, '"verdict":"harm"') OR instr(body, '"forgot":[');
