#!/bin/sh
# complexity.sh [HEADER]: psocket.h by section, and the limits it keeps. Prints Markdown; fails when a limit is broken.
# Complexity is pmccabe's (a switch counts once). REPORT=1 prints and never fails; MOST_LINES= and MOST_MEAN= are what is
# asked of the whole file, unless told otherwise: .ci/run gives what it has, so that it may only shrink.
set -u
header=${1:-psocket.h}
MOST_LINES=${MOST_LINES:-11800} MOST_MEAN=${MOST_MEAN:-38} MOST_PUBLIC=58 MOST_COMPLEX=20 MOST_LONG=60 MOST_PERCENT=4
command -v pmccabe >/dev/null || { echo "complexity: skipped, pmccabe is not installed"; exit 0; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/psocket.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
# Of alternatives (#if, #else) it looks at the first, with -x at all: the shares are of the former, the limits hold for both.
measure() { pmccabe ${1:+"$1"} "$header" 2>>"$tmp/err" | awk -F'\t' -v sure="$2" '$3 > 0 && $6 ~ /: / {
    n = at = $6
    sub(/.*: /, "", n)
    gsub(/.*\(|\).*/, "", at) # where its name stands: what precedes it need not belong to it
    print at, $1, $4 + $5 - at, n, sure
}'; }
{ measure '' 1; measure -x 0; } | sort -n -s -k1,1 -u >"$tmp/functions"

# The text without comments, strings and characters, line for line.
awk '{
    out = ""
    for (i = 1; i <= length($0); i++) {
        c = substr($0, i, 1)
        two = substr($0, i, 2)
        if (comment) { if (two == "*/") { comment = 0; i++; out = out " " } }
        else if (quote) { if (c == "\\") i++; else if (c == quote) quote = "" }
        else if (two == "/*") { comment = 1; i++ }
        else if (two == "//") break
        else if (c == "\"" || c == "\047") { quote = c; out = out "_" }
        else out = out c
    }
    quote = ""
    print out
}' "$header" >"$tmp/bare"

awk -v most_lines=$MOST_LINES -v most_mean=$MOST_MEAN -v most_public=$MOST_PUBLIC -v most=$MOST_COMPLEX -v most_long=$MOST_LONG \
    -v percent=$MOST_PERCENT '
    FILENAME ~ /functions$/ {
        functions++
        first[functions] = $1
        complexity[functions] = $2
        size[functions] = $3
        name[functions] = $4
        counted += sure[functions] = $5
        next
    }
    FILENAME ~ /bare$/ { bare[FNR] = $0; next }
    {
        lines = FNR
        chars += length($0)
        text[FNR] = $0
        if ($0 ~ /^ \* >>[a-z0-9]+ *$/) { section[++sections] = substr($2, 3); start[sections] = FNR }
    }
    function in_section(line,   i) {
        for (i = sections; i > 1 && start[i] > line; i--) continue
        return i
    }
    function broken(what) { faults[++fault_count] = what }
    END {
        start[sections + 1] = lines + 1
        for (i = 1; i <= functions; i++) {
            s = in_section(first[i])
            where = "`>>" section[s] "` " name[i] " (line " first[i] ")"
            count[s]++
            lengths[s] += size[i]
            if (complexity[i] > 15) { over15[s]++; all15 += sure[i] }
            if (complexity[i] > worst[s]) worst[s] = complexity[i]
            if (complexity[i] > most) { over20[s]++; all20++; broken(where ": complexity " complexity[i] ", at most " most) }
            if (size[i] > most_long) { long[s]++; all_long++ }
            if (size[i] > most_long && name[i] != "luaopen_psocket") broken(where ": " size[i] " lines, at most " most_long)
            if (!(name[i] in home)) home[name[i]] = s # of variants for several systems the first
            # conditionals inside functions, but for what differs between systems and between versions of Lua
            if (section[s] == "os" || section[s] == "platform") continue
            for (k = first[i]; k < first[i] + size[i]; k++)
                if (bare[k] ~ /^[ \t]*#[ \t]*(if|elif|else|endif)/ && !(section[s] == "lua" && k < lua_head())) {
                    inside[s]++
                    all_inside++
                    broken(where ": a conditional inside, line " k)
                    break
                }
        }
        # calls and pointers to what a later section defines
        for (k = 1; k <= lines; k++) {
            rest = bare[k] ~ /^[ \t]*#/ ? "" : bare[k]
            while (match(rest, /psi_[a-z0-9_]+/)) {
                word = substr(rest, RSTART, RLENGTH)
                rest = substr(rest, RSTART + RLENGTH)
                if (word in home && home[word] > in_section(k) && !((word, in_section(k)) in said)) {
                    said[word, in_section(k)] = 1
                    backward[in_section(k)]++
                    broken("`>>" section[in_section(k)] "` uses " word " of `>>" section[home[word]] "` (line " k ")")
                }
            }
        }
        for (k = 1; k <= lines; k++)
            if (match(bare[k], /^PSOCKET_API [^(]*psocket_[a-z0-9_]+\(/) && bare[k] ~ /;/ && k < implementation()) public++
        print "### psocket.h by section\n"
        print "| section | lines | functions | lines each | over 15 | over 20 | worst | over " most_long " lines | conditionals inside | backward |"
        print "|---|---|---|---|---|---|---|---|---|---|"
        for (s = 1; s <= sections; s++)
            printf "| `>>%s` | %d | %d | %s | %d | %d | %d | %d | %d | %d |\n", section[s], start[s + 1] - start[s], count[s],
                count[s] ? sprintf("%.1f", lengths[s] / count[s]) : "-", over15[s], over20[s], worst[s], long[s], inside[s], backward[s]
        printf "| all | %d | %d | | %d (%.1f %%) | %d | | %d | %d | |\n\n", lines, functions, all15, 100 * all15 / counted, all20, all_long, all_inside
        printf "%d lines, %.1f characters each on average; %d public functions.\n", lines, chars / lines, public
        if (100 * all15 / counted > percent) broken(sprintf("%.1f %% of the functions over 15, at most %d %%", 100 * all15 / counted, percent))
        if (lines > most_lines) broken(lines " lines, at most " most_lines)
        if (sprintf("%.1f", chars / lines) + 0 > most_mean + 0) broken(sprintf("%.1f characters a line, at most %s", chars / lines, most_mean))
        if (public > most_public) broken(public " public functions, at most " most_public)
        if (fault_count) print "\nLimits broken:\n"
        for (k = 1; k <= fault_count; k++) print "- " faults[k]
        exit fault_count > 0
    }
    function implementation() { # where the declarations end
        if (!declared) for (declared = 1; declared < lines && text[declared] !~ /^#define PSOCKET_IMPLEMENTED/; declared++) continue
        return declared
    }
    function lua_head(   k, heads) { # what differs between the versions: before the second heading of >>lua
        if (head_end) return head_end
        for (k = start[sections]; k <= lines; k++)
            if (text[k] ~ /^\/\*---/ && ++heads == 2) break
        return head_end = k
    }
' "$tmp/functions" "$tmp/bare" "$header"
status=$?
[ -s "$tmp/err" ] && sed 's/^/pmccabe: /' "$tmp/err" >&2
[ "${REPORT:-0}" = 0 ] || exit 0
exit $status
