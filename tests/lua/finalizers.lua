-- Finalizers that use a socket while one of its operations makes its result.
local t = require "check"
local psocket = t.psocket
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises

-- Calls op again and again while finalizers call meddle; returns how often they did.
local function meddled(times, op, meddle)
  local calls, calm = 0, t.eager()
  local on = true
  local function again()
    if not on then return end
    calls = calls + 1
    meddle()
    t.finalizer(again)
  end
  t.finalizer(again)
  for i = 1, times do op(i) end
  on = false
  calm()
  return calls
end

for _, size in ipairs { 10, 3000, 50000 } do
  for _, name in ipairs { "recv", "peek", "read", "read_until" } do
    t.test(name .. " of " .. size .. " bytes while finalizers move the socket's buffer", function()
      local a, b = psocket.pair { recv_limit = 1000000 }
      a:settimeout(1)
      local filler, wrong = ("z"):rep(100000), 0
      local calls = meddled(100, function(i)
        local want = (i .. "."):rep(size):sub(1, size - 1) .. "\n"
        b:unrecv(want)
        local got, garbage = nil, ("g"):rep(2000) .. i
        if name == "read" then got = b:read(size)
        elseif name == "read_until" then got = b:read_until("\n")
        elseif name == "recv" then got = b:recv()
        else
          got = b:peek()
          b:recv()
        end
        if got ~= want or not garbage then wrong = wrong + 1 end
      end, function()
        if pcall(b.unrecv, b, filler) then
          local ok, back = pcall(b.recv, b)
          if not ok or back ~= filler then wrong = wrong + 1 end
        end
      end)
      equal(wrong, 0)
      check(calls > 0, "no finalizer ran")
    end)
  end
end

t.test("a finalizer closes the socket that is being read", function()
  local calls = 0
  for i = 1, 30 do
    local a, b = psocket.pair()
    local want = ("x"):rep(i * 500)
    b:unrecv(want)
    local got
    calls = calls + meddled(1, function() got = b:recv() end, function() b:close() end)
    check(a and (got == want or got == nil), got)
    if got == nil then fails("CLOSED_HERE", b:recv()) end
  end
end)

t.finish()
