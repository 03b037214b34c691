-- nvim_test.lua URL CA: in Neovim, a request in a task while vim.loop (libuv) is the event loop: it watches the descriptor
-- that the scheduler's getfd names, and a timer for the time that it names. Ends Neovim with status 0 if all went well.
local psocket = require "psocket"
local http = require "http"
local uv = vim.uv or vim.loop
local sched = psocket.scheduler()
local poll, timer, pending = nil, uv.new_timer(), true

local function turn()
  pending = sched:step(0)
  local fd, seconds = sched:getfd()
  if not poll then poll = assert(uv.new_poll(fd)) poll:start("r", vim.schedule_wrap(turn)) end
  timer:stop()
  if pending and seconds then timer:start(math.ceil(seconds * 1000), 0, vim.schedule_wrap(turn)) end
end

local answer, message
local ticks, ticker = 0, uv.new_timer()
ticker:start(10, 10, function() ticks = ticks + 1 end)
sched:add(function()
  answer, message = http.request { url = arg_url, tls = { ca_file = arg_ca }, timeout = 10 }
end)
turn()
local ended = vim.wait(10000, function() return not pending end, 50)
print(("%s %s, %d bytes, %d ticks of Neovim's own timer"):format(tostring(ended), tostring(answer and answer.status or message),
  answer and #answer.body or 0, ticks))
vim.cmd(ended and answer and answer.status == 200 and #answer.body == 1000000 and ticks > 10 and "qall!" or "cquit")
