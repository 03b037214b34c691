#!/bin/sh
# examples/annotations/psocket.lua against what the module exports: every function and method is there, and nothing else;
# every option that it lists is known; and it is Lua.
. tests/check.sh
module=
for v in 5.4 5.3 5.2 5.1; do
    for d in "$BUILD/lua/$v" "$BUILD/opt/lua/$v"; do
        [ -z "$module" ] && [ -f "$d/psocket.so" ] && has lua$v && module=$d lua=lua$v
    done
done
[ -n "$module" ] || { skip "annotations" "there is no module"; finish; }
cat >"$tmp/compare.lua" <<'LUA'
local psocket = require "psocket"
local file = "examples/annotations/psocket.lua"
local problems = 0
local function problem(text) print(text) problems = problems + 1 end
-- What the file says.
local said = { socket = {}, listener = {}, tls = {}, scheduler = {}, queue = {}, psocket = {} }
local options, class = { options = {}, tls_options = {} }, nil
for line in io.lines(file) do
  local c = line:match("^%-%-%-@class psocket%.([%w_]+)") or line:match("^%-%-%-@class (psocket) ")
  if c then class = c end
  local field = line:match("^%-%-%-@field ([%w_]+)")
  if field and options[class] then options[class][field] = true end
  if field and class == "psocket" then said.psocket[field] = true end
  local object, name = line:match("^function ([%w_]+)[.:]([%w_]+)%(")
  if object then said[object][name] = true end
end
for name in pairs(said.socket) do said.psocket[name] = true end -- the module is the class of sockets, too
local function methods(object) return getmetatable(object).__index end
local a = assert(psocket.pair())
local l = assert(psocket.listen("127.0.0.1:0"))
local exported = { psocket = psocket, listener = methods(l), scheduler = psocket.scheduler,
  queue = psocket.queue and methods(psocket.queue()), tls = methods(assert(psocket.tls {})) }
for class, names in pairs(exported) do
  for name, v in pairs(names) do
    if type(name) == "string" and not name:find("^__") and not said[class][name] and (type(v) == "function" or class == "psocket") then
      problem(class .. "." .. name .. " is not annotated")
    end
  end
  for name in pairs(said[class]) do
    if names[name] == nil then problem(class .. "." .. name .. " is annotated and does not exist") end
  end
end
for name in pairs(said.socket) do
  if methods(a)[name] == nil then problem("socket:" .. name .. " does not exist") end
end
-- An option of the wrong type is refused by its name; one that is unknown, as unknown.
local function refusal(f, name)
  local ok, message = pcall(f, { [name] = print == nil })
  local ok2, message2 = pcall(f, { [name] = {} })
  return tostring(not ok and message or not ok2 and message2 or "")
end
for name in pairs(options.options) do
  if refusal(function(o) return psocket.connect("127.0.0.1", 1, o) end, name):find("unknown", 1, true) then problem("option " .. name .. " is unknown") end
end
for name in pairs(options.tls_options) do
  if refusal(psocket.tls, name):find("unknown", 1, true) then problem("TLS option " .. name .. " is unknown") end
end
os.exit(problems == 0 and 0 or 1)
LUA
named() { # every option in psocket.h's table
    missing=
    for o in $(sed -n '/psi_lua_known\[\] = {/,/^};/s/^    { "\([a-z0-9_]*\)".*/\1/p' psocket.h); do
        grep -q "^---@field $o?" examples/annotations/psocket.lua || missing="$missing $o"
    done
    echo "options that are not annotated:$missing"
    [ -z "$missing" ]
}
check "they have every option" named
check "the annotations are Lua" $lua -e "assert(loadfile 'examples/annotations/psocket.lua')()"
check "they say what the module exports" env LUA_CPATH="$module/?.so" $lua "$tmp/compare.lua"
finish
