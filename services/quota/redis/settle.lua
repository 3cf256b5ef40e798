-- Close holds of one account and day. Atomic.
--
-- A settlement without a hold changes nothing, so settling twice is safe without storing old ids. If Redis lost the hold,
-- reconciliation restores the charge from the ledger.
--
-- KEYS[1]  quota:{bucket}:account:account_id  prefix of the account's entries
-- KEYS[2]  quota:{bucket}:holds               deadline of each hold of the bucket
-- ARGV     account id, day of the reserve, then for each hold: request id, verdict (charged or released), used tokens and
--          used cost ('' for unknown, which charges all that is held)
-- Returns  for each hold, 1 if it existed and 0 otherwise

local account_id, day = ARGV[1], ARGV[2]
local entries = KEYS[1] .. ':' .. day
local answer, changes, minutes = {}, {[entries] = {}}, {}

local function change(name, counter, held, charged)
  local counts = changes[name] or {}
  changes[name] = counts
  counts[counter .. ':held'] = (counts[counter .. ':held'] or 0) - held
  counts[counter] = (counts[counter] or 0) + charged
end

for i = 3, #ARGV, 4 do
  local request_id, verdict = ARGV[i], ARGV[i + 1]
  local used = {tokens = tonumber(ARGV[i + 2]), cost = tonumber(ARGV[i + 3])}
  local hold = redis.call('HGET', entries, request_id)
  if hold then
    redis.call('ZREM', KEYS[2], account_id .. ' ' .. day .. ' ' .. request_id)
    redis.call('HDEL', entries, request_id)
    -- The hold says how much it took of which counters. A counter of a minute or a month has its start after `@`.
    for counter, unit, window, start, amount in string.gmatch(hold, ' ([^ :]+:(%l+)(_?%l*))@?(%d*) (%d+)') do
      local held = tonumber(amount)
      local charged = verdict == 'charged' and math.min(used[unit] or held, held) or 0
      if start == '' then
        change(entries, counter, held, charged)
      elseif window == '_minute' then
        minutes[counter] = minutes[counter] or redis.call('HGET', entries, counter .. ':minute')
        -- What was taken of an earlier minute counts no more.
        if minutes[counter] == start then
          change(entries, counter, held, charged)
        end
      else
        local month = KEYS[1] .. ':month:' .. start
        redis.call('HDEL', month, request_id)
        change(month, counter, held, charged)
      end
    end
  end
  answer[#answer + 1] = hold and 1 or 0
end
for name, counts in pairs(changes) do
  local fields = {}
  for field, amount in pairs(counts) do
    if amount ~= 0 then
      fields[#fields + 1] = field
    end
  end
  if #fields > 0 then
    -- One read and one write are faster than an increment of each field.
    local values = redis.call('HMGET', name, unpack(fields))
    local set = {}
    for i, field in ipairs(fields) do
      -- A counter that was dropped since the reserve starts from the ledger.
      if values[i] then
        set[#set + 1] = field
        set[#set + 1] = values[i] + counts[field]
      end
    end
    if #set > 0 then
      redis.call('HSET', name, unpack(set))
    end
  end
end
return answer
