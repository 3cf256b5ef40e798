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
local ARGV, tonumber, find, match, sub, min = ARGV, tonumber, string.find, string.match, string.sub, math.min

-- What holds took of each counter, and what is charged of it, by the counter's place. `minute_of` is the minute of a
-- counter of a minute, `month_of` the first day of the month of another one, and '' for a counter of a day.
local count, place_of, name_of, counter_of, unit_of = 0, {}, {}, {}, {}
local minute_of, month_of, held_of, charged_of = {}, {}, {}, {}

-- Add what a hold took and what of it was used, and return the places of its counters.
local function add(hold, used)
  local places = {}
  for counter, unit, window, start, amount in string.gmatch(hold, ' ([^ :]+:(%l+)(_?%l*))@?(%d*) (%d+)') do
    local name, held = start == '' and counter or counter .. '@' .. start, tonumber(amount)
    local place = place_of[name]
    if not place then
      count = count + 1
      place, place_of[name], name_of[count], counter_of[count], unit_of[count] = count, count, name, counter, unit
      held_of[count], charged_of[count], month_of[count] = 0, 0, start
      if window == '_minute' then
        minute_of[count], month_of[count] = start, ''
      end
    end
    held_of[place], charged_of[place] = held_of[place] + held, charged_of[place] + min(used[unit] or held, held)
    places[#places + 1] = place
  end
  return places
end

-- Most holds of a batch took of the same counters. Write the text of a hold with these counters that took as much of each
-- unit as `hold`. If it is the text of `hold`, its counters need no parsing. Returns the amounts by unit, or nil.
local function amounts_of(hold, places, parts)
  local amounts = {}
  for n, place in ipairs(places) do
    local unit = unit_of[place]
    if not amounts[unit] then
      local _, last = find(hold, ' ' .. name_of[place] .. ' ', 1, true)
      amounts[unit] = last and match(hold, '^%d+', last + 1)
      if not amounts[unit] then
        return nil
      end
    end
    parts[2 * n - 1], parts[2 * n] = parts[2 * n - 1] or ' ' .. name_of[place] .. ' ', amounts[unit]
  end
  local text = table.concat(parts)
  if parts[1] and sub(hold, -#text) == text and find(hold, ':', 1, true) > #hold - #text then
    return amounts
  end
end

local ids = {}
for i = 3, #ARGV, 4 do
  ids[#ids + 1] = ARGV[i]
end
local holds = redis.call('HMGET', entries, unpack(ids))
local nothing = {requests = 0, tokens = 0, cost = 0}
local answer, closed, deadlines, is_closed, places, parts, held_by, charged_by = {}, {}, {}, {}, nil, nil, nil, nil
-- Add what the holds took that are like the last one that was parsed.
local function add_alike()
  for _, place in ipairs(held_by and places or {}) do
    local unit = unit_of[place]
    held_of[place], charged_of[place] = held_of[place] + held_by[unit], charged_of[place] + charged_by[unit]
  end
  held_by, charged_by = nil, nil
end
for n, request_id in ipairs(ids) do
  local hold = not is_closed[request_id] and holds[n]
  answer[n] = hold and 1 or 0
  if hold then
    is_closed[request_id] = true
    closed[#closed + 1] = request_id
    deadlines[#deadlines + 1] = account_id .. ' ' .. day .. ' ' .. request_id
    local used = nothing
    if ARGV[4 * n] == 'charged' then
      used = {tokens = tonumber(ARGV[4 * n + 1]), cost = tonumber(ARGV[4 * n + 2])}
    end
    local amounts = places and amounts_of(hold, places, parts)
    if amounts then
      held_by, charged_by = held_by or {}, charged_by or {}
      for unit, amount in pairs(amounts) do
        local held = tonumber(amount)
        held_by[unit] = (held_by[unit] or 0) + held
        charged_by[unit] = (charged_by[unit] or 0) + min(used[unit] or held, held)
      end
    else
      add_alike()
      places, parts = add(hold, used), {}
    end
  end
end
if not closed[1] then
  return answer
end
add_alike()
redis.call('ZREM', KEYS[2], unpack(deadlines))
redis.call('HDEL', entries, unpack(closed))

-- Change the counters of a month, or of the day. One read and one write are faster than an increment of each field.
local function change(key, month)
  local fields, n = {}, 0
  for place = 1, count do
    if month_of[place] == month then
      local counter = counter_of[place]
      fields[n + 1], fields[n + 2] = counter, counter .. ':held'
      n = n + 2
      if minute_of[place] then
        n = n + 1
        fields[n] = counter .. ':minute'
      end
    end
  end
  if n == 0 then
    return
  end
  local values, changes, size, at = redis.call('HMGET', key, unpack(fields)), {}, 0, 1
  for place = 1, count do
    if month_of[place] == month then
      local charged, held, minute = values[at], values[at + 1], minute_of[place]
      -- What was taken of an earlier minute counts no more.
      if not minute or minute == values[at + 2] then
        -- A counter that was dropped since the reserve starts from the ledger.
        if held then
          changes[size + 1], changes[size + 2] = fields[at + 1], held - held_of[place]
          size = size + 2
        end
        if charged and charged_of[place] > 0 then
          changes[size + 1], changes[size + 2] = fields[at], charged + charged_of[place]
          size = size + 2
        end
      end
      at = at + (minute and 3 or 2)
    end
  end
  if size > 0 then
    redis.call('HSET', key, unpack(changes))
  end
end

change(entries, '')
local changed = {['']=true}
for place = 1, count do
  local month = month_of[place]
  if not changed[month] then
    changed[month] = true
    redis.call('HDEL', KEYS[1] .. ':month:' .. month, unpack(closed))
    change(KEYS[1] .. ':month:' .. month, month)
  end
end
return answer
